import sys

from utils.benchmark.command import main

sys.exit(main(sys.argv[1:]))
