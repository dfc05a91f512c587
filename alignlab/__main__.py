"""`python -m alignlab` is the same command as `alignlab`."""

import sys

from alignlab.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "alignlab"  # the name that usage messages and tab completion show, not that of this file
    sys.exit(main())
