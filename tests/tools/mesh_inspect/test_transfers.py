"""`transfers` prints who loads what, and an empty answer is an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.tools.mesh_inspect.support import PlayedMesh, holding, member

from mesh_inspect import cli
from netloader.discovery.advert import Feed, Holding
from netmesh import Generation, Member, Status

GIB = 1 << 30


def at(number: int, *held: Holding, status: Status = Status.ALIVE) -> Member:
    one = member(*held, id=f"10.0.0.{number}:17946", status=status)
    return replace(one, generation=Generation(number))


def held(number: int, **changes: Any) -> Holding:
    return holding("org/a", **{"endpoint": f"10.0.0.{number}:31000", **changes})


def loading(number: int, **changes: Any) -> Holding:
    return held(number, **{"state": "loading", "total": 8 * GIB, "held": 2 * GIB, **changes})


def feed(number: int, rate: int) -> Feed:
    return Feed(endpoint=f"10.0.0.{number}:31000", generation=number, nbytes=GIB, rate=rate)


PULLS = loading(2, rate=GIB, pulling=3, feeds=(feed(1, GIB // 4), feed(3, GIB // 2), feed(9, 5)))
MESH = (
    at(1, held(1)),
    at(2, PULLS),
    at(3, held(3), status=Status.STALLED),
    at(4, loading(4, storage="reading", rate=GIB // 2)),
    at(5, loading(5, held=0, awaits=("10.0.0.4:17946",))),
    at(6, loading(6, rate=7), status=Status.DEAD),
)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert cli.main(["transfers", *arguments], PlayedMesh(MESH).means) == 0
    said = capsys.readouterr()
    return said.out, said.err


def test_a_line_for_each_load(capsys: pytest.CaptureFixture[str]) -> None:
    heading, *lines = (line.split() for line in run(capsys)[0].splitlines())
    titles = ("MODEL", "LAYOUT", "REPLICA", "DONE", "SIZE", "RATE", "FROM", "LEFT", "STATE")
    assert heading == [*titles]
    assert [line[2:] for line in lines] == [
        ["10.0.0.2:17946", "25%", "8.0GiB", "1.0GiB/s", "10.0.0.3:17946,+2", "6s", "pulling"],
        ["10.0.0.4:17946", "25%", "8.0GiB", "512.0MiB/s", "storage", "12s", "reading"],
        ["10.0.0.5:17946", "0%", "8.0GiB", "0B/s", "10.0.0.4:17946", "-", "waiting"],
        ["10.0.0.6:17946", "25%", "8.0GiB", "-", "-", "-", "dead"],
    ]


def test_wide_names_every_source_and_how_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    heading, first, *_ = (line.split() for line in run(capsys, "-o", "wide")[0].splitlines())
    assert heading[9:] == ["GENERATION", "ROLE", "AWAITS", "SOURCES"]
    assert first[9:] == [
        *("2", "target", "-"),
        "10.0.0.3:17946(stalled)=1.0GiB@512.0MiB/s,10.0.0.1:17946(ready)=1.0GiB@256.0MiB/s,"
        "10.0.0.9:31000(unknown)=1.0GiB@5B/s",
    ]


def test_the_document_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(run(capsys, "-o", "json")[0])
    assert (document["apiVersion"], document["mesh"]) == ("mesh-inspect/v1", "default")
    assert document["rate"] == GIB + GIB // 2
    first, *_, last = document["transfers"]
    assert len(first["sources"]) == 3
    assert first["sources"][2] == {
        "id": None,
        "endpoint": "10.0.0.9:31000",
        "generation": 9,
        "condition": "unknown",
        "bytes": GIB,
        "rate": 5,
    }
    del first["sources"]
    assert first == {
        "id": "10.0.0.2:17946",
        "generation": 2,
        "status": "alive",
        "model": "org/a",
        "role": "target",
        "layout": {
            "tp_size": 1,
            "tp_rank": 0,
            "pp_size": 1,
            "pp_rank": 0,
            "ep_size": 1,
            "ep_rank": 0,
        },
        "state": "pulling",
        "held_bytes": 2 * GIB,
        "total_bytes": 8 * GIB,
        "rate": GIB,
        "left_s": 6.0,
        "reads_storage": False,
        "awaits": [],
    }
    assert (last["state"], last["rate"], last["left_s"]) == ("dead", None, None)


def test_that_nobody_loads_is_said_and_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = PlayedMesh((at(1, held(1)),)).means
    assert cli.main(["transfers"], quiet) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "mesh-inspect: nobody loads in mesh 'default'\n")
    assert "nobody of those selected loads" in run(capsys, "--model", "org/z")[1]
    assert cli.main(["transfers", "-o", "json"], quiet) == 0
    assert json.loads(capsys.readouterr().out)["transfers"] == []


def test_a_silent_mesh_is_3() -> None:
    assert cli.main(["transfers", "--timeout", "1"], PlayedMesh(None).means) == 3
