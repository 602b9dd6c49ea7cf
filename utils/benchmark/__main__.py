"""Run one benchmark: python -m utils.benchmark NAME."""

import sys

from utils.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
