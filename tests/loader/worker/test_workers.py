"""Which worker a model gets, in a process that makes one model after the other, or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.loader.support import Toy, until
from tests.mesh.test_ports import free_range

from netloader.config import Config
from netloader.worker.position import Position
from netloader.worker.process import Worker
from netloader.worker.workers import Workers

FIRST = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", "MODEL": "first"}, {})
SECOND = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", "MODEL": "second"}, {})
PLACE = Position()


class Noted(Worker):
    """A worker that tells what became of it."""

    def __init__(self, config: Config, position: Position) -> None:
        super().__init__(config, position)
        self.released: list[str] = []
        self.closed = False

    def release(self, role: str) -> None:  # type: ignore[override]
        self.released.append(role)
        super().release(role)  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True
        super().close()


@pytest.fixture
def made() -> Iterator[list[Noted]]:
    found: list[Noted] = []
    yield found
    for worker in found:
        if not worker.closed:
            worker.close()


def workers(made: list[Noted], process_id: Callable[[], int] = os.getpid) -> Workers:
    def make(config: Config, position: Position) -> Worker:
        made.append(Noted(config, position))
        return made[-1]

    return Workers(make, process_id)


def test_target_and_draft_share_a_worker(made: list[Noted]) -> None:
    one = workers(made)
    assert one.claim(FIRST, PLACE, "target") is one.claim(FIRST, PLACE, "draft")
    assert len(made) == 1


def test_two_models_at_once_never_share_a_role(made: list[Noted]) -> None:
    one = workers(made)
    found = [one.claim(FIRST, PLACE, "target") for _ in range(2)]
    assert found[0] is not found[1]
    assert found[0].membership.generation != found[1].membership.generation


def test_other_settings_are_honoured(made: list[Noted]) -> None:
    one = workers(made)
    one.claim(FIRST, PLACE, "target")
    assert one.claim(SECOND, PLACE, "target").config is SECOND
    assert one.claim(SECOND, PLACE, "draft") is made[1]


def test_threads_that_ask_at_once_get_one_worker_for_each_model(made: list[Noted]) -> None:
    one = workers(made)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: one.claim(FIRST, PLACE, "target"), range(4)))
    assert len({id(worker) for worker in found}) == len(made) == 4


def test_a_model_that_is_gone_ends_its_worker(made: list[Noted]) -> None:
    one = workers(made)
    target, draft = Toy(), Toy()
    for role, model in (("target", target), ("draft", draft)):
        one.follow(one.claim(FIRST, PLACE, role), role, model)  # type: ignore[arg-type]
    assert one.worker_of(target) is made[0]
    del target, model
    until(lambda: made[0].released == ["target"])
    assert not made[0].closed
    assert one.claim(FIRST, PLACE, "target") is made[0]
    one.release(made[0], "target")
    del draft
    until(lambda: made[0].closed)
    assert one.claim(FIRST, PLACE, "target") is made[1]


def test_the_next_model_has_the_ports_of_the_one_before(made: list[Noted]) -> None:
    port = free_range(1).first
    config = FIRST.model_copy(update={"listen_port": port})
    one = workers(made)
    for _ in range(3):
        model = Toy()
        worker = one.claim(config, PLACE, "target")
        one.follow(worker, "target", model)
        source = worker.sources.listen("target")
        assert source is not None and source.endpoint == f"127.0.0.1:{port}"
        del model


def test_a_child_does_not_end_what_its_parent_serves(made: list[Noted]) -> None:
    process_id = 1
    one = workers(made, lambda: process_id)
    model = Toy()
    one.follow(one.claim(FIRST, PLACE, "target"), "target", model)
    process_id = 2
    del model
    one.claim(FIRST, PLACE, "target")  # Waits for what is being released.
    assert made[0].released == []


def test_a_load_that_failed_leaves_nothing(made: list[Noted]) -> None:
    one = workers(made)
    one.release(one.claim(FIRST, PLACE, "target"), "target")
    assert made[0].closed
    one.release(made[0], "target")  # Once more does no harm.
    assert made[0].released == ["target"]


def test_nobody_serves_the_model_of_another_loader(made: list[Noted]) -> None:
    one = workers(made)
    one.claim(FIRST, PLACE, "target")
    assert one.worker_of(Toy()) is None


def test_a_forked_child_has_workers_of_its_own(made: list[Noted]) -> None:
    process_id = 1
    one = workers(made, lambda: process_id)
    parents = one.claim(FIRST, PLACE, "target")
    process_id = 2
    assert one.claim(FIRST, PLACE, "draft") is not parents


def test_a_program_may_say_whose_turn_it_is(made: list[Noted]) -> None:
    one = workers(made)
    first = one.claim(FIRST, PLACE, "target")
    assert one.swap(None) is first
    second = one.claim(FIRST, PLACE, "target")
    assert second is not first
    assert one.swap(first) is second
    assert one.claim(SECOND, PLACE, "target") is first
    assert one.worker_of(Toy()) is first
    assert one.swap(None) is first
