"""Finds tests that pass only sometimes: `python -m tests.flaky`, or `make flaky` for all of it.

Runs the unit suite many times, each time in another random order, in three ways:

order    as `make test-unit` does
busy     beside processes that keep every core busy
pinned   with one core for everything

Prints how many runs passed, and which tests failed under which seed. A seed gives the order again:
`--way busy --runs 1 --seed 123 --select tests/loader`. The logs of failed runs stay in `.flaky/`.

exit status   0   every run passed
              1   one did not
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LOGS: Final = ".flaky"

END_S: Final = 10.0
"""How long a process may take to end after it was told to."""

_SPIN: Final = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(100_000))
"""
"""Ends by itself once the process that started it is gone, however that ended."""

_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (?! )(.+?)(?: - .*)?$", re.MULTILINE)
"""Of pytest's short summary; a line of a log has more blanks."""


@dataclass(frozen=True)
class Plan:
    """What one run is told."""

    select: tuple[str, ...] = ()
    """Files and folders below the root; empty: the whole unit suite."""
    processes: int = 2
    """How many share the files; 0: pytest's own process runs them all."""
    timeout_s: float = 3600.0
    """Of a whole run. One that takes longer is ended and has failed."""
    root: Path = ROOT
    """Where pytest is started, and `LOGS` is made."""

    def command(self, seed: int) -> list[str]:
        """pytest, in the order that `seed` gives: that of files and that of the tests in them."""
        shared = ["-n", str(self.processes), "--dist", "loadfile", "--no-loadscope-reorder"]
        return [
            *(sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"),
            *(f"--randomly-seed={seed}", "--ignore=tests/e2e"),
            *("-m", "not e2e and not bench and not soak"),
            *(shared if self.processes else ()),
            *self.select,
        ]


@dataclass(frozen=True)
class Run:
    """How one run ended."""

    way: str
    seed: int
    failed: tuple[str, ...]
    """Names of tests, or one sentence where pytest itself did not get to its end."""


@contextmanager
def busy() -> Iterator[None]:
    """Keep every core that this process may use busy."""
    spinners: list[subprocess.Popen[bytes]] = []
    try:
        for _ in os.sched_getaffinity(0):
            spinners.append(subprocess.Popen([sys.executable, "-c", _SPIN, str(os.getpid())]))
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
        for spinner in spinners:
            spinner.wait(END_S)


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this process, and all that it starts, to one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


WAYS: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    "order": nullcontext,
    "busy": busy,
    "pinned": pinned,
}


def run_once(plan: Plan, way: str, seed: int) -> Run:
    """Run the tests once in this way. Writes the output of a run that failed into `LOGS`."""
    with WAYS[way]():
        status, output = _run(plan.command(seed), plan.root, plan.timeout_s)
    if status == 0:
        return Run(way, seed, ())
    logs = plan.root / LOGS
    logs.mkdir(exist_ok=True)
    (logs / f"{way}-{seed}.log").write_text(output)
    how = f"had not ended after {plan.timeout_s:g} s" if status is None else f"ended with {status}"
    return Run(way, seed, tuple(sorted(set(_FAILED.findall(output)))) or (f"pytest {how}",))


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> tuple[int | None, str]:
    """The exit status of a command, None if it took too long, and all that it printed."""
    # A session of its own: what the tests started ends with them.
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=END_S)
        return None, output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(END_S)


def table(runs: Sequence[Run]) -> str:
    """Counts by way, then every test that failed and the seeds it failed under."""
    lines = [f"{'way':<8} {'runs':>5} {'passed':>7}"]
    for way in dict.fromkeys(run.way for run in runs):
        these = [run for run in runs if run.way == way]
        lines.append(f"{way:<8} {len(these):>5} {sum(not run.failed for run in these):>7}")
    seeds: dict[tuple[str, str], list[int]] = {}
    for run in runs:
        for name in run.failed:
            seeds.setdefault((run.way, name), []).append(run.seed)
    for (way, name), found in sorted(seeds.items()):
        lines.append(f"{way}: {name} (seed {', '.join(map(str, found))})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, print the table, return the exit status."""
    options = _parser().parse_args(argv)
    # By SystemExit, so that spinners and tests are ended on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    plan = Plan(tuple(options.select), options.processes, options.timeout)
    draw = random.Random()
    runs: list[Run] = []
    for way in options.way or WAYS:
        for number in range(1, options.runs + 1):
            seed = draw.getrandbits(32) if options.seed is None else options.seed
            started = time.monotonic()
            run = run_once(plan, way, seed)
            runs.append(run)
            ended = f"{len(run.failed)} failed" if run.failed else "passed"
            seconds = time.monotonic() - started
            print(
                f"{way} {number}/{options.runs}, seed {seed}: {ended} in {seconds:.0f} s",
                flush=True,
            )
    print(table(runs))
    return int(any(run.failed for run in runs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.flaky",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--runs", type=int, default=10, metavar="N", help="of each way (default: 10)"
    )
    parser.add_argument(
        "--way", action="append", choices=WAYS, help="only this one (repeatable; default: all)"
    )
    parser.add_argument(
        "--select", nargs="+", default=(), metavar="PATH", help="only these files and folders"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="this order in every run")
    parser.add_argument(
        "--processes", type=int, default=2, metavar="N", help="that share the files (default: 2)"
    )
    parser.add_argument(
        "--timeout", type=float, default=3600.0, metavar="SECONDS", help="of one run"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
