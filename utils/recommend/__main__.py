"""Run the program: python -m utils.recommend."""

import sys

from utils.recommend.recommend import main

if __name__ == "__main__":
    sys.exit(main())
