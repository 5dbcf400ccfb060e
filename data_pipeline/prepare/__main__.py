"""python -m data_pipeline.prepare KIND SRC DST"""

import sys

from data_pipeline.prepare.command import main

sys.exit(main())
