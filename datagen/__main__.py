"""The entry of the command line, and `python -m datagen`.

Until `main` runs, signals do what Python has them do; so nothing is imported here that Python has
not loaded anyway.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which takes a while to import
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status: 130 where SIGINT, SIGTERM or SIGHUP ends
    it.
    """
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup has set another
                signal.signal(number, signal.default_int_handler)
        # datagen multiplies no matrices, and where there is no room for its threads, OpenBLAS ends
        # the process.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from datagen.cli.main import run  # takes longer than a key needs to be pressed

        status = run()
    except KeyboardInterrupt:
        status = _fail(130, "interrupted")
    except RuntimeError as error:  # Python 3.11 wraps what interrupts the making of a class
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        status = _fail(130, "interrupted")
    except (ImportError, MemoryError) as error:
        status = _fail(
            7,
            f"the command line cannot be loaded: {error or 'memory is short'}; install datagen anew",
        )
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # all is done; Python has yet to end
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


def _fail(status: int, message: str) -> int:
    """Print an error without the help of any library; its exit status."""
    try:  # noqa: SIM105  (contextlib is not loaded yet)
        os.write(2, f"Error: {message}\n".encode(errors="backslashreplace"))
    except OSError:
        pass
    return status


if __name__ == "__main__":
    main()
