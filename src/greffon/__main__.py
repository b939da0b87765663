"""`python -m greffon` is the command `greffon`."""

import sys

from greffon.cli import main

if __name__ == "__main__":
    sys.exit(main())
