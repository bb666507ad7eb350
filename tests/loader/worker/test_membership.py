from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.loader.discovery.test_advert import holding
from tests.loader.support import until
from tests.meshes import OWN_MESH

from netloader.config import Config
from netloader.discovery import advert
from netloader.discovery.advert import MAX_TEXT
from netloader.worker.membership import Membership
from netloader.worker.position import Position


@pytest.fixture
def alone() -> Membership:
    return Membership(
        Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1"}, {}), Position.alone(3)
    )


def test_without_a_mesh_nobody_is_there_and_it_says_why(alone: Membership) -> None:
    assert alone.members() == ()
    assert not alone.wait_joined(60)
    assert alone.absent == "off"
    assert (alone.host, alone.name) == ("127.0.0.1", "127.0.0.1 rank 3")
    alone.leave()


def test_a_mesh_that_cannot_be_started_costs_the_mesh_and_not_the_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {
            "MESH_NAME": OWN_MESH,
            "MESH_DIRECTORY": str(tmp_path / "mesh"),
            "MESH_PORT": port,
            # Published by others, so no other port can stand for it.
            "MESH_ADVERTISE": f"127.0.0.1:{port}",
        }
        worker = Membership(Config.load(settings, {}), Position.alone(0))
    assert (worker.absent, worker.host, worker.members()) == (
        "could not be joined",
        "127.0.0.1",
        (),
    )
    assert "going on without the mesh" in caplog.text
    worker.leave()


def test_what_is_announced_replaces_what_was_said_of_the_same_model(alone: Membership) -> None:
    alone.announce(**dict(holding(role="draft")))
    alone.announce(**dict(holding(state="loading", serving=2)))
    alone.announce(**dict(holding(state="ready")))
    target, draft = alone.holding("target"), alone.holding("draft")
    assert target == holding(state="ready")
    assert draft == holding(role="draft")


def test_a_change_before_anything_was_announced_says_nothing(alone: Membership) -> None:
    alone.update("target", state="ready")
    assert alone.holding("target") is None


def test_long_texts_are_cut_to_what_readers_accept(alone: Membership) -> None:
    alone.announce(**dict(holding()) | {"names": {"given": "m" * 5000}})
    alone.update("target", reason="r" * 5000)
    held = alone.holding("target")
    assert held is not None
    assert (len(held.reason), len(held.names["given"])) == (MAX_TEXT, MAX_TEXT)


def test_nonsense_is_refused_and_changes_nothing(alone: Membership) -> None:
    alone.announce(**dict(holding()))
    with pytest.raises(ValidationError):
        alone.update("target", serving=-1)
    assert alone.holding("target") == holding()


def test_threads_that_change_different_fields_at_once_lose_nothing(alone: Membership) -> None:
    alone.announce(**dict(holding()))
    fields = ("serving", "pulling", "nbytes", "chunk_bytes")

    def count(field: str) -> None:
        for number in range(50):
            alone.update("target", **{field: number})

    with ThreadPoolExecutor(len(fields)) as pool:
        list(pool.map(count, fields))
    assert alone.holding("target") == holding(**dict.fromkeys(fields, 49))


def test_an_advert_that_is_too_long_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {str(at): "x" * MAX_TEXT for at in range(12)}

    def seen() -> set[int]:
        return {one.held for it in other.members() if not it.me for one in advert.decode(it.advert)}

    settings = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(tmp_path),
        "MESH_ADVERTISE": "127.0.0.1",
    }
    worker, other = (Membership(Config.load(settings, {}), Position.alone(at)) for at in (0, 1))
    try:
        worker.announce(**dict(holding(state="loading", held=1)))
        until(lambda: seen() == {1})
        for held in range(2, 6):
            worker.update("target", fields=long, held=held)
        assert seen() == {1}
        assert caplog.text.count("could not publish") == 1
        worker.update("target", fields={}, held=6)
        until(lambda: seen() == {6})
        worker.update("target", fields=long, held=7)
        assert caplog.text.count("could not publish") == 2
    finally:
        worker.leave()
        other.leave()
