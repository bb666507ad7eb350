"""Data-parallel engines of a dense model: each worker has a place of its own, and equal weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import Server, scrape
from tests.free_ports import free_port

pytestmark = [
    pytest.mark.e2e,
    # Two servers of six processes each: half a minute a server where all are forked.
    pytest.mark.soak,
    pytest.mark.timeout(2000),
]

RANKS = (0, 1)
_PATIENCE_S = 900.0
"""Six processes a server. Where each imports vLLM, it takes minutes on two cores."""


def test_engines_of_a_dense_model_have_places_of_their_own(models: Path, home: Path) -> None:
    keys = ("MESH_PORT", "LISTEN_PORT", "METRICS_PORT")
    extra: dict[str, object] = {key: free_port(1) for key in keys}
    extra |= {"OUTPUT_PREFIX": str(home / "at.")}
    with (
        Server("first", models / "one", home, dp=2, extra=extra, report=True, forked=True) as first,
        Server(
            "second", models / "one", home, dp=2, report=True, start=False, forked=True
        ) as second,
    ):
        first.wait_ready(_PATIENCE_S)
        second.start().wait_ready(_PATIENCE_S)

        mesh, listen, metrics = (int(str(extra[key])) for key in keys)
        held = {str(first.report(rank)["endpoint"]) for rank in RANKS}
        assert held == {f"127.0.0.1:{listen + rank}" for rank in RANKS}
        for rank in RANKS:
            assert (home / f"at.{rank}.txt").read_text() == first.report(rank)["endpoint"]
            assert "netloader_loads_total" in scrape(metrics + rank)
            assert len(first.lines(f"mesh: 127.0.0.1:{mesh + rank} is a member")) == 1
            # Engines hold equal weights, so any of them will do.
            replica = second.report(rank)
            assert replica["origin"] == "peers"
            assert sum(second.delivered(rank).values()) == replica["nbytes"]
            assert replica["tensors"] == first.report(0)["tensors"] != {}
        assert second.complete("Bytes travel", tokens=4) == first.complete("Bytes travel", tokens=4)
