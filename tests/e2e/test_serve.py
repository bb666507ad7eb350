"""One worker a server: who takes weights from whom, on real `vllm serve` processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.servers import Server, isolated_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

PROMPT = "The mesh knows who is alive"


@pytest.fixture(scope="module")
def first(models: Path, home: Path) -> Iterator[Server]:
    """A server that finds nobody."""
    with Server("first", models / "one", home, report=True) as server:
        yield server.wait_ready()


def inspect(home: Path) -> list[dict[str, object]]:
    """What `mesh-inspect` says of the mesh."""
    answer = subprocess.run(
        ["mesh-inspect", "-o", "json"],
        env=isolated_environment(home),
        capture_output=True,
        check=True,
        timeout=30,
    )
    members: list[dict[str, object]] = json.loads(answer.stdout)["members"]
    return members


def test_a_server_without_peers_loads_from_storage_and_becomes_a_source(
    first: Server, home: Path
) -> None:
    report = first.report()

    assert report["origin"] == "storage"
    assert report["deliveries"] == []
    (member,) = inspect(home)
    assert member["ready"] is True
    assert member["endpoint"] == report["endpoint"]
    assert member["bytes"] == report["nbytes"]


def test_a_second_server_takes_its_weights_from_the_first(
    first: Server, models: Path, home: Path
) -> None:
    with Server("second", models / "one", home, report=True) as second:
        second.wait_ready()
        mine, theirs = second.report(), first.report()

        assert mine["origin"] == "peers"
        assert second.delivered() == {str(theirs["endpoint"]): theirs["nbytes"]}
        assert mine["tensors"] == theirs["tensors"] != {}
        text = first.complete(PROMPT)
        assert text
        assert second.complete(PROMPT) == text
        members = inspect(home)
        assert len(members) == 2
        assert all(member["ready"] for member in members)
        assert len({member["identity"] for member in members}) == 1


def test_a_static_source_works_with_the_mesh_off(first: Server, models: Path, home: Path) -> None:
    endpoint = str(first.report()["endpoint"])
    extra = {
        "MESH": False,
        "SOURCE": [{"device_id": 0, "sources": [endpoint]}],
        "OUTPUT_PREFIX": str(home / "static."),
    }
    with Server("static", models / "one", home, report=True, extra=extra) as static:
        static.wait_ready()

        assert static.report()["origin"] == "peers"
        assert list(static.delivered()) == [endpoint]
        assert static.report()["tensors"] == first.report()["tensors"]
        assert (home / "static.0.txt").read_text() == static.report()["endpoint"]
        assert static.complete(PROMPT) == first.complete(PROMPT)
        assert len([m for m in inspect(home) if m["status"] == "alive"]) == 1


def test_equal_names_with_other_weights_are_refused(
    first: Server, models: Path, home: Path
) -> None:
    """Both ways of asking: the mesh rules the peer out, a static source refuses by itself."""
    endpoint = str(first.report()["endpoint"])
    extra = {
        "MODEL": str(models / "one"),
        "SOURCE": [{"device_id": 0, "sources": [endpoint]}],
    }
    with Server("impostor", models / "two", home, report=True, extra=extra) as impostor:
        impostor.wait_ready()
        report = impostor.report()

        assert report["origin"] == "storage"
        assert report["deliveries"] == []
        skipped = report["skipped"]
        assert isinstance(skipped, list)
        by_mesh = [reason for reason in skipped if reason.startswith("mesh: ")]
        by_source = [reason for reason in skipped if reason.startswith("SOURCE: ")]
        assert "checkpoint content (sample): mine" in by_mesh[0]
        assert "refused: checkpoint content (sample): mine" in by_source[0]
        mine, theirs = impostor.sha256(), first.sha256()
        assert (
            mine["model.layers.0.mlp.down_proj.weight"]
            != (theirs["model.layers.0.mlp.down_proj.weight"])
        )
        assert impostor.complete(PROMPT) != first.complete(PROMPT)


def test_a_source_killed_half_way_costs_the_replica_only_time(models: Path, home: Path) -> None:
    faults = {
        "PYTHONPATH": str(Path(__file__).parent / "faults"),
        "FAULT_KILL_AFTER_SENDS": "8",
        "NETLOADER_MESH_NAME": "doomed",
    }
    with (
        Server("doomed", models / "one", home, report=True, env=faults) as doomed,
        Server(
            "survivor",
            models / "one",
            home,
            report=True,
            env={"NETLOADER_MESH_NAME": "doomed"},
            start=False,
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
    with Server("bad", models / "one", home, extra=extra) as bad:
        assert bad.wait_ended() != 0
        assert "LISTEN_PORT=80 is not valid: an integer, 1024..65535" in bad.log.read_text()
