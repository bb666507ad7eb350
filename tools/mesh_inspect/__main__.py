"""The program `mesh-inspect`, and `python -m mesh_inspect`.

Most of a look at a mesh is the start of the interpreter. What is set here shortens that, and is
not set by `cli`, which other programs may import.
"""

import gc
import os
import sys
from typing import Final

_PLUGINS: Final = "PYDANTIC_DISABLE_PLUGINS"


def main() -> int:
    """Run the command and return its exit status."""
    # Nothing is thrown away while modules are imported, so a collection finds nothing.
    gc.disable()
    # No plugin of pydantic has a say here. To look for some takes 20 ms among the packages of vLLM.
    before = os.environ.get(_PLUGINS)
    os.environ[_PLUGINS] = "__all__"
    from mesh_inspect.cli import main as run

    if before is None:
        del os.environ[_PLUGINS]
    else:
        os.environ[_PLUGINS] = before
    # Modules stay. Without them, a collection among two thousand members is short.
    gc.freeze()
    gc.enable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
