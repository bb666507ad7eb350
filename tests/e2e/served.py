"""The command `vllm`, all of whose processes are forked: for `Server(forked=True)`."""

from __future__ import annotations

import sys

from vllm.entrypoints.cli.main import main

from tests.e2e.forks import fork_instead

if __name__ == "__main__":
    fork_instead()
    sys.argv[0] = "vllm"
    main()
