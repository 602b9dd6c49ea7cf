"""Run the program: python -m utils.baselines."""

import sys

from utils.baselines.settings import parse_args

if __name__ == "__main__":
    # Before torch is imported, which takes seconds, so that --help and mistakes answer at once
    parse_args()
    from utils.baselines.baselines import main

    sys.exit(main())
