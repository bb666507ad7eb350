"""`python -m mesh_inspect`, for environments whose scripts are not on the path."""

import sys

from mesh_inspect.cli import main

sys.exit(main())
