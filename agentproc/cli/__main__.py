"""``python -m aios.cli``: the command line, as the console script starts it."""

import sys

from .main import main

sys.exit(main())
