"""`python -m threadkeep` is `threadkeep`."""

import sys

from threadkeep.cli import main

if __name__ == "__main__":
    sys.exit(main())
