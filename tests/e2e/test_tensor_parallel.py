"""Two workers a server: each rank finds the peer that holds its own shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "Bytes travel from device to device"


def test_each_rank_pulls_from_the_peer_of_its_own_rank(models: Path, home: Path) -> None:
    with (
        Server("first", models / "one", home, tp=2, report=True, forked=True) as first,
        Server(
            "second", models / "one", home, tp=2, report=True, start=False, forked=True
        ) as second,
    ):
        first.wait_ready()
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
