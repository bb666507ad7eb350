"""Two workers a server: each rank finds the peer that holds its own shard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.servers import Server, scrape
from tests.free_ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "Bytes travel from device to device"


def test_each_rank_pulls_from_the_peer_of_its_own_rank(models: Path, home: Path) -> None:
    """Of a source that has reloaded its weights. Both servers were given one `MESH_PORT`."""
    shared = {key: free_port(1) for key in ("MESH_PORT", "METRICS_PORT")}
    extra = shared | {"LISTEN_PORT": free_port(1)}
    with (
        Server(
            *("first", models / "one", home),
            tp=2,
            extra=extra,
            env={"VLLM_SERVER_DEV_MODE": "1"},
            report=True,
            forked=True,
        ) as first,
        Server(
            *("second", models / "one", home),
            tp=2,
            extra=shared,
            report=True,
            start=False,
            forked=True,
        ) as second,
    ):
        first.wait_ready()
        first.collective_rpc("reload_weights")
        second.start().wait_ready()

        for rank in (0, 1):
            source, replica = first.report(rank), second.report(rank)
            assert source["origin"] == "storage"
            assert replica["origin"] == "peers"
            assert second.delivered(rank) == {str(source["endpoint"]): source["nbytes"]}
            assert replica["tensors"] == source["tensors"] != {}
        assert first.sha256(0) != first.sha256(1)
        text = first.complete(PROMPT, tokens=4)
        assert text
        assert second.complete(PROMPT, tokens=4) == text

        mesh, metrics, listen = extra.values()
        for rank in (0, 1):
            assert first.report(rank)["endpoint"] == f"127.0.0.1:{listen + rank}"
            assert 'netloader_loads_total{origin="storage",role="target"} 1.0' in scrape(
                metrics + rank
            )
            for words in (
                f"mesh: 127.0.0.1:{mesh + rank} is a member of 'default'",
                f"of {models / 'one'} at 127.0.0.1:{listen + rank} by ",
                f"not a source of {models / 'one'} for now: its weights are being reloaded",
                f"ready to serve {models / 'one'} again: its weights were reloaded",
            ):
                assert len(said_by(first, rank, words)) == 1, words
            (pulled,) = said_by(second, rank, "] pulled ")
            # A line of its own, after the bar that shows how far rank 0 has got. Rank 1 knows
            # nothing of that bar, and may write into its line.
            assert rank > 0 or pulled.startswith("(Worker_TP0 ")
            for key in shared:
                assert len(said_by(second, rank, key)) == 1, key
        for words in ("is a member of 'default'", "not a source of", "again: its weights"):
            assert len(first.lines(words)) == 2


def said_by(server: Server, rank: int, words: str) -> list[str]:
    """Lines of one rank with these words, in vLLM's format."""
    form = rf"\(Worker_TP{rank} pid=\d+\) (INFO|WARNING) [\d-]+ [\d:]+ \[\w+\.py:\d+\] "
    return [line for line in server.lines(words) if re.search(form, line)]
