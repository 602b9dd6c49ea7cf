"""Run the program: python -m utils.report."""

import sys

from utils.report.report import main

if __name__ == "__main__":
    sys.exit(main())
