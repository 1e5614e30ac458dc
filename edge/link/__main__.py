"""``python -m edge.link``."""

import sys

from edge.link.process import main

sys.exit(main())
