"""Workers that load at once while nobody has the weights: real ones, in a mesh of their own."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.loader.support import identity, until
from tests.loader.worker.loading.whole_load import (
    WEIGHTS,
    FakeEngine,
    advert,
    load_with,
    member,
    request,
    toy,
)
from torch import nn

from netloader.identity.identity import Evidence
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import Filled, fill
from netloader.worker.loading.finish import Complete, finish
from netloader.worker.loading.plan import plan
from netloader.worker.loading.serve import serve


@dataclass
class Halfway(FakeEngine):
    """Half of the files has been read."""

    def share_read(self) -> float:
        return 0.5


def test_one_reads_and_the_other_takes_it_from_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "netloader")
    shown: list[str] = []

    def waiting_is_shown() -> bool:
        shown.append(capsys.readouterr().err)
        return "Waiting for another worker's read:  50% Completed | " in "".join(shown)

    begun: list[nn.Module] = []
    may_end = threading.Event()

    def slow(model: nn.Module) -> None:
        begun.append(model)
        assert may_end.wait(HANG_S)

    with (
        member(tmp_path, 0) as first,
        member(tmp_path, 1) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        both = (first, second)
        until(lambda: all(len(one.membership.members()) == 2 for one in both))
        loads = [
            pool.submit(load_with, one, Halfway(while_loading=slow), toy, shows_progress=True)
            for one in both
        ]
        until(lambda: begun)
        until(lambda: sorted(advert(one).storage for one in both) == ["able", "reading"])
        assert len(begun) == 1
        reader, waiting = sorted(both, key=lambda one: advert(one).storage != "reading")
        until(lambda: advert(waiting).awaits == (reader.membership.name,))
        assert advert(reader).awaits == ()
        until(waiting_is_shown)
        assert f", {reader.membership.name}]" in "".join(shown)
        may_end.set()
        ends = [load.result(HANG_S) for load in loads]
        for one in both:
            said = advert(one)
            assert (said.storage, said.awaits, said.held, said.rate) == ("", (), 0, 0)
            assert (said.feeds, said.pulling) == ((), 0)
        ((whom, seconds),) = next(end for end in ends if end.origin == "peers").tried.waited
        assert whom == reader.membership.name and seconds > 0
        assert f", after waiting {seconds:.1f} s for {whom} to read storage" in caplog.text
        assert not next(end for end in ends if end.origin == "storage").tried.waited
    assert sorted(end.origin for end in ends) == ["peers", "storage"]
    assert all(end.right for end in ends)
    assert all(end.reason == "" for end in ends)


def test_nobody_waits_twice_for_weights_that_cannot_be_served(tmp_path: Path) -> None:
    with (
        member(tmp_path, 0) as first,
        member(tmp_path, 1) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        both = (first, second)
        until(lambda: all(len(one.membership.members()) == 2 for one in both))
        # vLLM does not say what it has read.
        loads = [pool.submit(load_with, one, FakeEngine(reads=None), toy) for one in both]
        ends = [load.result(HANG_S) for load in loads]
    assert [end.origin for end in ends] == ["storage", "storage"]
    assert all(end.right for end in ends)


def test_a_fault_in_a_wait_costs_the_wait(tmp_path: Path) -> None:
    def broken() -> str:
        raise RuntimeError("broken on purpose")

    with member(tmp_path, 0) as first, member(tmp_path, 1) as other:
        who = identity()
        other.membership.announce(
            role="target",
            state="loading",
            identity=who.digest,
            fields=who.fields(),
            content={},
            endpoint="127.0.0.1:1024",
            backend="gloo",
            transports=("tcp",),
        )
        until(lambda: first.peers.survey(who, ("tcp",)).company)
        end = load_with(first, FakeEngine(evidence={}, makers={Evidence.SAMPLE: broken}), toy)
    assert (end.origin, end.right) == ("storage", True)
    assert any("broken on purpose" in reason for reason in end.skipped)


def test_a_fault_in_telling_others_costs_the_telling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_in(question: str) -> None:
        if question == "share_read":
            raise RuntimeError("broken on purpose")

    def told(model: nn.Module) -> None:
        until(lambda: "others are no longer told" in caplog.text)

    with member(tmp_path, 0) as alone:
        end = load_with(alone, FakeEngine(fails_in=fails_in, while_loading=told), toy)
    assert (end.origin, end.right, end.reason) == ("storage", True, "")


def test_a_reader_says_how_far_and_how_fast_it_is(tmp_path: Path) -> None:
    nbytes = WEIGHTS.manifest.nbytes
    told: list[tuple[int, int]] = []

    def look(model: nn.Module) -> None:
        until(lambda: advert(alone).held == nbytes // 2)
        told.append((advert(alone).held, advert(alone).rate))

    with member(tmp_path, 0) as alone:
        engine = Halfway(while_loading=look)
        planned = plan(request(alone, engine))
        model = toy()
        filled = fill(build(planned, model), model)
        assert isinstance(filled, Filled)
        # It has read everything, and vLLM has not post-processed it yet.
        assert (advert(alone).held, advert(alone).rate) == (nbytes, 0)
        complete = finish(filled, model)
        assert isinstance(complete, Complete)
        serve(complete, model).result(HANG_S)
        assert (advert(alone).state, advert(alone).held) == ("ready", 0)
    ((held, rate),) = told
    assert held == nbytes // 2
    assert rate > 0


def test_a_worker_whose_storage_fails_reads_at_no_rate(tmp_path: Path) -> None:
    with member(tmp_path, 0) as alone:
        with pytest.raises(OSError, match="on purpose"):
            load_with(alone, FakeEngine(error=OSError("on purpose")), toy)
        assert advert(alone).rate == 0


def test_a_worker_that_is_alone_says_only_that_it_reads(tmp_path: Path) -> None:
    told: list[tuple[str, object]] = []
    with member(tmp_path, 0) as alone:

        def look(model: nn.Module) -> None:
            told.append((advert(alone).storage, dict(advert(alone).content)))

        assert load_with(alone, FakeEngine(while_loading=look), toy).origin == "storage"
    assert told == [("reading", {})]
