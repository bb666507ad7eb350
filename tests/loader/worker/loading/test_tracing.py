"""The parts of a load are spans of the trace that vLLM writes."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest
from tests.fastest import HANG_S

pytest.importorskip("opentelemetry.sdk")


def spans(origin: str) -> dict[str, str]:
    """Names of the spans, each with the span that it is a part of."""
    program = "tests.loader.worker.loading.traced_load"
    ended = subprocess.run(
        [sys.executable, "-m", program, origin],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(orjson.loads(ended.stdout.splitlines()[-1]))


def test_a_load_from_peers_discovers_pulls_and_applies() -> None:
    seen = spans("peers")
    for part in ("discover", "pull", "apply"):
        assert seen[f"netloader.{part}"] == "Loading"
    assert "netloader.storage" not in seen


def test_a_load_from_storage_reads_storage_and_the_evidence_of_it() -> None:
    seen = spans("storage")
    assert "netloader.evidence" in seen
    assert seen["netloader.storage"] == "Loading"
    assert "netloader.pull" not in seen
