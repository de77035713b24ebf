"""Entry point of the command line, and of `python -m modeling`."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from modeling.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line and exit with its status, also if interrupted while it is loaded."""
    try:
        from modeling.cli.main import run

        status = run()
    except KeyboardInterrupt:
        status = INTERRUPTED
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # all is done; Python has yet to end
    sys.exit(status)


if __name__ == "__main__":
    main()
