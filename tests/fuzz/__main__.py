"""`python -m tests.fuzz --runs N [--seed S] [--target NAME]`: one JSON line for each target.

Exit status 1 when any input led to anything but a message or the one error type.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .campaign import read_counts
from .targets import TARGETS

_ROOT = Path(__file__).parents[2]
_DONE = re.compile(r"#\d+\s+DONE\s+cov: (\d+) .*?corp: (\d+)/.*?rss: (\d+)Mb", re.DOTALL)


def fuzz(name: str, runs: int, seed: int) -> dict[str, object]:
    """Fuzz one target in a process of its own."""
    path = os.pathsep.join((str(_ROOT), *sys.path))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder = Path(made)
        started = time.monotonic()
        child = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.libfuzzer", name, str(runs), str(seed), made],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        done = _DONE.search(child.stderr)
        if child.returncode or done is None:
            # Memory or time ran out, or the interpreter died: all of them findings.
            sys.exit(f"{name}: the fuzzer ended with {child.returncode}\n{child.stderr[-4000:]}")
        counts = read_counts(folder / "counts")
    if counts["other_errors"]:
        print(child.stderr, file=sys.stderr)
    edges, corpus, memory = map(int, done.groups())
    return {
        "target": name,
        "seed": seed,
        **counts,
        "edges": edges,
        "corpus": corpus,
        "rss_mb": memory,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Fuzz what was asked for."""
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer's random choices")
    parser.add_argument("--target", choices=names, action="append", help="default: all of them")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        sys.exit("the coverage-guided fuzzer is not installed: pip install atheris")
    failed = False
    for name in options.target or names:
        result = fuzz(name, options.runs, options.seed)
        print(json.dumps(result), flush=True)
        failed = failed or bool(result["other_errors"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
