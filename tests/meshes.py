"""A name for the mesh of tests that start real members.

Files of tests run side by side, and every mesh looks for its members at a few ports that follow
from its name. In the mesh `default` a port that one test's member has left may be taken by a member
of another test. Who still remembers the first one greets the second, and two tests have one mesh.
"""

from __future__ import annotations

import os
from typing import Final

OWN_MESH: Final = f"test-{os.getpid()}"
"""The mesh of this process's tests, which run one after the other.

A process that a test starts is told the name: its own `OWN_MESH` is another.
"""
