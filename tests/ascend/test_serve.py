"""Two `vllm serve` by one command on an emulated NPU: mesh, HCCL between them, equal answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ascend.ours import ND
from tests.e2e.models import make_llama
from tests.e2e.servers import Server, isolated_environment

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

PROMPT = "The mesh knows who is alive"
READY_S = 600.0

FLAGS = ("--max-model-len=128", "--num-gpu-blocks-override=32", "--gpu-memory-utilization=0.02")
"""What keeps a server small. Nothing in them concerns the loader."""


def server(name: str, model: Path, home: Path) -> Server:
    env = {"VLLM_HOST_IP": "127.0.0.1"} | ND
    made = Server(name, model, home, env=env, flags=FLAGS, report=True, start=False)
    made.command[:1] = [sys.executable, "-m", "vllm.entrypoints.cli.main"]
    return made.start()


def holdings(home: Path) -> list[dict[str, Any]]:
    """What `mesh-inspect` says of all members."""
    told = subprocess.run(
        [sys.executable, "-m", "mesh_inspect", "-o", "json"],
        env=isolated_environment(home),
        capture_output=True,
        check=True,
        timeout=120,
    )
    found: list[dict[str, Any]] = json.loads(told.stdout)["members"]
    return found


def test_the_second_server_pulls_from_the_first_over_hccl(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    with server("first", model, tmp_path) as first:
        first.wait_ready(READY_S)
        assert first.report()["origin"] == "storage"
        with server("second", model, tmp_path) as second:
            second.wait_ready(READY_S)
            report: dict[str, Any] = second.report()
            assert report["origin"] == "peers", report
            assert {one["transport"] for one in report["deliveries"]} == {"hccl"}
            assert second.sha256() == first.sha256()
            assert second.complete(PROMPT) == first.complete(PROMPT)
            members = holdings(tmp_path)
            assert "hccl" in json.dumps(members)
            assert len(members) == 2
