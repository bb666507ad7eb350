"""The parts of a load are spans of the trace that vLLM writes."""

from __future__ import annotations

import orjson
import pytest
from tests.forked import answer, start_loader

pytest.importorskip("opentelemetry.sdk")


def spans(origin: str) -> dict[str, str]:
    """Names of the spans, each with the span that it is a part of."""
    with start_loader("tests.loader.worker.loading.traced_load", origin) as process:
        said = answer(process)
        assert process.wait() == 0
    return dict(orjson.loads(said))


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
