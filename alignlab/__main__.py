"""`python -m alignlab` is the same command as `alignlab`."""

import sys

from alignlab.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "alignlab"  # usage messages and tab completion show this name
    sys.exit(main())
