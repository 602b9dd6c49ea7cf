import sys

from utils.recommend.recommend import main

sys.exit(main())
