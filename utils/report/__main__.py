import sys

from utils.report.report import main

sys.exit(main())
