"""A source whose weights were loaded anew."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.loader.discovery.test_advert import holding
from tests.loader.support import calling, hello, identity, offer_of, toy_weights, until

from netloader.config import Config
from netloader.protocol import messages
from netloader.source.offer import Offer
from netloader.source.recovery import again_as_promised
from netloader.worker.position import Position
from netloader.worker.process import Worker


def changed() -> tuple[Offer, int]:
    """An offer of which one byte is another one now, and what the byte was."""
    offer = offer_of(toy_weights(1, rows=10))
    view = offer.weights.tensors[0].view(-1)
    before = int(view[5])
    view[5] = before ^ 1
    return offer, before


def test_it_is_a_source_again_once_all_bytes_are_as_promised() -> None:
    offer, before = changed()
    found: list[bool] = []
    waiting = threading.Thread(
        target=lambda: found.append(again_as_promised(offer, threading.Event(), first_look_s=0.001))
    )
    waiting.start()
    assert found == []
    offer.weights.tensors[0].view(-1)[5] = before
    waiting.join(HANG_S)
    assert found == [True]


def test_other_bytes_are_waited_for_only_so_long() -> None:
    offer, _ = changed()
    assert not again_as_promised(offer, threading.Event(), first_look_s=0.001, patience_s=0.05)


def test_waiting_ends_with_the_worker() -> None:
    offer, _ = changed()
    stop = threading.Event()
    stop.set()
    assert not again_as_promised(offer, stop)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    for key in [key for key in os.environ if key.startswith("NETLOADER_")]:
        monkeypatch.delenv(key)
    made = Worker(Config.load({"MESH": False}, {}), Position())
    yield made
    made.close()


def refusal(worker: Worker) -> messages.Message:
    source = worker.sources.listen("target")
    assert source is not None
    with calling(source) as caller:
        return caller.ask(hello(toy_weights(1, rows=10), generation=None))


def serving(worker: Worker) -> Offer:
    source = worker.sources.listen("target")
    assert source is not None
    worker.membership.announce(**dict(holding(state="loading", endpoint=source.endpoint)))
    offer = offer_of(toy_weights(1, rows=10))
    assert worker.sources.serve("target", offer)
    return offer


def test_worker_serves_again_after_its_own_checkpoint_was_reloaded(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serving(worker)
    worker.sources.withdraw("target", "its weights are being reloaded")
    name = identity().names.given
    assert f"not a source of {name} for now: its weights are being reloaded" in caplog.messages
    held = worker.membership.holding("target")
    assert held is not None and held.state == "unavailable"
    answer = refusal(worker)
    assert isinstance(answer, messages.Refuse) and answer.code == "not-ready"
    worker.sources.resume("target", identity().names.given)
    until(lambda: (now := worker.membership.holding("target")) is not None and now.state == "ready")
    assert isinstance(refusal(worker), messages.Accept)
    assert f"ready to serve {name} again: its weights were reloaded" in caplog.messages


def test_memory_of_an_accelerator_is_not_read_again_and_the_worker_says_so(worker: Worker) -> None:
    """A model that sleeps may have given it back."""
    assert worker.sources.listen("target") is not None
    here = offer_of(toy_weights(1, rows=10))
    offer = replace(here, weights=replace(here.weights, device_type="npu"))
    worker.membership.announce(**dict(holding(state="loading", endpoint="127.0.0.1:1")))
    assert worker.sources.serve("target", offer)
    worker.sources.withdraw("target", "its weights are being reloaded")
    worker.sources.resume("target", identity().names.given)
    held = worker.membership.holding("target")
    assert held is not None and held.state == "unavailable"
    assert "weights in a device's memory are not read again" in held.reason


def test_worker_that_was_loaded_from_elsewhere_says_so_and_serves_nobody(
    worker: Worker, tmp_path: Path
) -> None:
    serving(worker)
    worker.sources.withdraw("target", "its weights are being reloaded")
    worker.sources.resume("target", str(tmp_path))
    held = worker.membership.holding("target")
    assert held is not None
    assert (held.state, held.reason) == (
        "unavailable",
        f"it holds other weights now: those of {tmp_path}",
    )
    assert isinstance(refusal(worker), messages.Refuse)


def test_worker_that_is_reloaded_once_more_meanwhile_waits_for_that(worker: Worker) -> None:
    offer = serving(worker)
    view = offer.weights.tensors[0].view(-1)
    view[5] ^= 1
    worker.sources.withdraw("target", "first")
    worker.sources.resume("target", identity().names.given)
    worker.sources.withdraw("target", "second")
    view[5] ^= 1
    held = worker.membership.holding("target")
    assert held is not None and (held.state, held.reason) == ("unavailable", "second")
    worker.sources.resume("target", identity().names.given)
    until(lambda: (now := worker.membership.holding("target")) is not None and now.state == "ready")


def test_worker_that_never_served_has_nothing_to_resume(worker: Worker) -> None:
    worker.sources.resume("target", "/models/toy")
    assert worker.membership.holding("target") is None
