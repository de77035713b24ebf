"""The entry of the command line, and `python -m datagen`.

Until `main` runs, signals do what Python has them do; so nothing is imported here that Python has not loaded anyway.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # as in typing, which takes a while to import
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its status: 130 where SIGINT, SIGTERM or SIGHUP ends it."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup has set another
                signal.signal(number, signal.default_int_handler)
        # datagen multiplies no matrices, and where there is no room for its threads, OpenBLAS ends the process.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from datagen.cli import run  # takes longer than a key needs to be pressed

        status = run()
    except KeyboardInterrupt:
        status = 130
        try:  # noqa: SIM105  (contextlib is not loaded yet)
            os.write(2, b"Error: interrupted\n")
        except OSError:
            pass
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all is done; Python has yet to end
        signal.signal(number, signal.SIG_IGN)
    sys.exit(status)


if __name__ == "__main__":
    main()
