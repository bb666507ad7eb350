"""`mesh-inspect match` asks vLLM what a worker would need, and is right about one that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.models import make_mixtral
from tests.e2e.servers import Server, isolated_environment

# A server, and two more interpreters that import vLLM.
pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(1800)]

FLAGS = ("--dtype=bfloat16", "--max-model-len=256", "--enforce-eager")


def matched(home: Path, model: Path, *flags: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit status, and what is said of each rank."""
    done = subprocess.run(
        [sys.executable, "-m", "mesh_inspect", "match", "-o", "json", str(model), *flags],
        env=os.environ | isolated_environment(home),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout, done.stderr
    workers: list[dict[str, Any]] = json.loads(done.stdout)["workers"]
    return done.returncode, workers


def test_who_could_feed_a_worker_is_told_before_there_is_one(home: Path) -> None:
    """A mixture of experts: its identity covers which rank holds which of them."""
    model = make_mixtral(home / "mixtral", seed=1)
    with Server("one", model, home, extra={"FABRIC": "rail-1"}).wait_ready(600.0):
        status, (worker,) = matched(home, model, *FLAGS, "--port=8000")
        assert status == 0, worker["others"]
        assert (len(worker["sources"]), worker["others"]) == (1, [])
        other_fabric = '--model-loader-extra-config={"FABRIC": "rail-2"}'
        status, (worker,) = matched(home, model, *FLAGS, other_fabric)
        assert (status, worker["sources"]) == (2, [])
        assert worker["others"][0]["reason"] == "FABRIC: mine rail-2, theirs rail-1"
        status, ranks = matched(
            home, model, *FLAGS, "--tensor-parallel-size=2", "--enable-expert-parallel"
        )
    assert status == 2 and len(ranks) == 2
    for number, rank in enumerate(ranks):
        assert (rank["layout"]["tp_rank"], rank["layout"]["ep_rank"]) == (number, number)
        ((other,), sources) = rank["others"], rank["sources"]
        assert not sources and "tp_size: mine 2, theirs 1" in other["reason"]
