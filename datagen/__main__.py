"""Entry point of the command line, and of `python -m datagen`.

Until `main` runs, signals have Python's default handlers; so this module imports only what Python
has loaded anyway.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which takes a while to import
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status; SIGINT, SIGTERM and SIGHUP give 130."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup has set another
                signal.signal(number, signal.default_int_handler)
        # datagen multiplies no matrices, and OpenBLAS ends the process if it gets no threads
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from datagen.cli import run  # slow enough for somebody to press Ctrl-C meanwhile

        status = run()
    except KeyboardInterrupt:
        status = _fail(130, "interrupted")
    except RuntimeError as error:  # Python 3.11 wraps an interrupt while a class is made
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        status = _fail(130, "interrupted")
    except (ImportError, MemoryError) as error:
        reason = error or "memory is short"
        status = _fail(7, f"the command line cannot be loaded: {reason}; install datagen again")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the work is done, only Python's exit is left
    sys.exit(status)


def _fail(status: int, message: str) -> int:
    """Print an error without the help of any library, and return the exit status."""
    try:  # noqa: SIM105  (contextlib is not loaded yet)
        os.write(2, f"Error: {message}\n".encode(errors="backslashreplace"))
    except OSError:
        pass
    return status


if __name__ == "__main__":
    main()
