"""The protocol does what it did: `traces.json` has hashes of whole runs, event by event.

A change of what members do must change them; one that only moves code must not. Whoever changes
behaviour writes them anew and says in the commit which runs differ, and why.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from netsim import RunOptions
from netsim import run as play

RUNS: list[dict[str, Any]] = orjson.loads(Path(__file__).with_name("traces.json").read_bytes())


CASES = [
    pytest.param(
        run,
        id=f"{run['scenario']}-{run['seed']}",
        # One seed of each scenario is in every test run.
        marks=[] if run["seed"] == RUNS[0]["seed"] else [pytest.mark.soak],
    )
    for run in RUNS
]


@pytest.mark.parametrize("recorded", CASES)
def test_run_is_as_recorded(recorded: dict[str, Any]) -> None:
    options = {key: value for key, value in recorded.items() if key != "trace"}
    report = play(RunOptions(**options))
    assert (report.trace, report.problems) == (recorded["trace"], ())
