"""What a process has once, without a mesh and with one on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.loader.support import (
    GENERATION,
    candidate,
    equal,
    identity,
    offer_of,
    pull_from,
    pull_into,
    toy_weights,
    until,
)
from tests.loader.test_advert import holding

from netloader import worker as module
from netloader.config import Config
from netloader.source import Source
from netloader.worker import Worker, get_worker

Start = Callable[..., Worker]
WEIGHTS = toy_weights(1)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts workers that find each other in a folder of this test and nowhere else."""
    for key in [key for key in os.environ if key.startswith("NETLOADER_")]:
        monkeypatch.delenv(key)
    started: list[Worker] = []

    def one(rank: int = 0, **extra: object) -> Worker:
        settings = {"MESH_DIRECTORY": str(tmp_path / "mesh"), "MESH_ADVERTISE": "127.0.0.1"}
        made = Worker(Config.load({**settings, **extra}, {}), rank)
        started.append(made)
        return made

    yield one
    for made in started:
        made.close()


def serve(worker: Worker) -> Source:
    source = worker.listen("target")
    assert source is not None
    worker.announce(holding(state="loading", endpoint=source.endpoint))
    worker.serve("target", offer_of(WEIGHTS))
    return source


def test_without_a_mesh_only_the_static_sources_are_candidates(start: Start) -> None:
    sources = [{"device_id": 1, "sources": ["127.0.0.1:2000"]}]
    found, skipped = start(1, MESH=False, SOURCE=sources).candidates(identity(), "gloo")
    assert [(one.endpoint, one.found_by, one.generation) for one in found] == [
        ("127.0.0.1:2000", "SOURCE", None)
    ]
    assert skipped == ["mesh: off"]


def test_list_without_this_rank_is_said(start: Start) -> None:
    sources = [{"device_id": 1, "sources": ["127.0.0.1:2000"]}]
    found, skipped = start(0, MESH=False, SOURCE=sources).candidates(identity(), "gloo")
    assert found == ()
    assert skipped[0] == "SOURCE has no entry for rank 0"


def test_static_lists_are_not_for_drafts(start: Start) -> None:
    sources = [{"device_id": 0, "sources": ["127.0.0.1:2000"]}]
    worker = start(0, MESH=False, SOURCE=sources)
    assert worker.candidates(identity(role="draft"), "gloo")[0] == ()


def test_ready_worker_writes_its_address_for_upstreams_tools(start: Start, tmp_path: Path) -> None:
    worker = start(3, MESH=False, OUTPUT_PREFIX=f"{tmp_path}/at_")
    source = serve(worker)
    assert (tmp_path / "at_3.txt").read_text() == source.endpoint


def test_port_that_is_taken_costs_the_source_not_the_start(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert start(0, MESH=False, LISTEN_PORT=port).listen("target") is None


def test_source_of_a_role_is_made_once(start: Start) -> None:
    worker = start(0, MESH=False)
    assert worker.listen("target") is worker.listen("target")
    assert worker.listen("target") is not worker.listen("draft")


def test_withdrawn_worker_says_why(start: Start) -> None:
    worker = start(0, MESH=False)
    serve(worker)
    worker.withdraw("target", "asleep")
    held = worker.holding("target")
    assert held is not None
    assert (held.state, held.reason) == ("unavailable", "asleep")


def test_two_workers_find_each_other_and_share(start: Start) -> None:
    first, second = start(0), start(1)
    serve(first)
    until(lambda: second.candidates(identity(), "gloo")[0])
    (found, *_), skipped = second.candidates(identity(), "gloo")
    assert found.generation == first.generation
    assert skipped == []
    replica = toy_weights()
    pull_from(pull_into(replica), found)
    assert equal(replica, WEIGHTS)


def test_nobody_with_these_weights_is_said(start: Start) -> None:
    found, skipped = start(0).candidates(identity(), "gloo")
    assert found == ()
    assert skipped[-1] == "mesh: nobody else holds toy (target)"


def test_source_refuses_who_expects_another_process(start: Start) -> None:
    source = serve(start(0, MESH=False))
    with pytest.raises(Exception, match=f"not {GENERATION}: restarted"):
        pull_from(pull_into(toy_weights()), candidate(source))


def test_every_loader_of_a_process_gets_the_same_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_current", None)
    config = Config.load({"MESH": False}, {})
    worker = get_worker(config, 0)
    assert get_worker(config, 0) is worker
    worker.close()


def test_forked_child_gets_a_worker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_current", None)
    config = Config.load({"MESH": False}, {})
    parents = get_worker(config, 0)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        childs = get_worker(config, 0)
    assert childs is not parents
    assert childs.generation != parents.generation
    for worker in (parents, childs):
        worker.close()
