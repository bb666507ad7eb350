"""What goes wrong costs time, or stops the start with a reason; never weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.servers import SMALL_CHUNKS, Server, killed_once

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PROMPT = "The mesh knows who is alive"


def test_a_source_killed_half_way_costs_the_replica_only_time(models: Path, home: Path) -> None:
    armed = home / "armed"
    armed.touch()
    alone = SMALL_CHUNKS | {"NETLOADER_MESH_NAME": "doomed"}
    with (
        Server(
            "doomed",
            models / "one",
            home,
            report=True,
            env=alone | killed_once(armed),
            forked=True,
        ) as doomed,
        Server(
            "survivor",
            models / "one",
            home,
            report=True,
            env=alone | {"NETLOADER_SOURCE_TIMEOUT": "1"},
            start=False,
            forked=True,
        ) as survivor,
    ):
        doomed.wait_ready()
        expected, endpoint = doomed.sha256(), str(doomed.report()["endpoint"])
        survivor.start().wait_ready()
        report = survivor.report()

        assert report["origin"] == "storage"
        received = survivor.delivered()[endpoint]
        assert 0 < received < int(str(report["nbytes"]))
        skipped = report["skipped"]
        assert isinstance(skipped, list)
        assert any(endpoint in reason and reason.startswith("mesh: ") for reason in skipped)
        assert survivor.sha256() == expected
        assert survivor.complete(PROMPT)
        assert survivor.report()["endpoint"]


def test_a_bad_setting_stops_the_start_and_says_why(models: Path, home: Path) -> None:
    extra: dict[str, object] = {"LISTEN_PORT": 80}
    with Server("bad", models / "one", home, extra=extra, forked=True) as bad:
        assert bad.wait_ended() != 0
        assert "LISTEN_PORT=80 is not valid: an integer, 1024..65535" in bad.log.read_text()
