"""python -m pineco: the command `pineco` where only an interpreter is at hand, as under torchrun."""

import sys

from pineco.launch.cli import main

sys.exit(main())
