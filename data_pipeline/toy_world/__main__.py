"""python -m data_pipeline.toy_world DEST"""

import sys

from data_pipeline.toy_world.world import main

sys.exit(main())
