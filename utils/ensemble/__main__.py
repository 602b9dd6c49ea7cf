"""Run the program: python -m utils.ensemble."""

import sys

from utils.ensemble.settings import parse_args

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_args()
    from utils.ensemble.ensemble import main

    sys.exit(main())
