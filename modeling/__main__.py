"""`python -m modeling`, and the command `modeling`."""

from __future__ import annotations

import sys
from typing import NoReturn

from modeling.errors import INTERRUPTED


def main() -> NoReturn:
    """Run the command line and exit with its status, also where it is interrupted while it is being
    loaded.
    """
    try:
        from modeling.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
