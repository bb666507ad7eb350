"""Run the Python file that is named: for `run_vllm`, which runs modules."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    runpy.run_path(sys.argv[1], run_name="__main__")
