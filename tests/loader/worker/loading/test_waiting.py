"""Who reads storage when, in virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest
from tests.loader.support import identity

from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.discovery.election import Contender, Electorate, MemberStart, Wait
from netloader.identity.identity import LazyContent
from netloader.replica.settings import PullSettings
from netloader.telemetry import SILENT
from netloader.worker.loading.sought import Sought
from netloader.worker.loading.waiting import (
    ReadStorage,
    SourceCame,
    SourceWait,
    WaitPolicy,
    WaitSettings,
)
from netloader.worker.membership import Membership
from netloader.worker.process import Worker
from netloader.worker.progress import Progress

WHO = identity()
NBYTES = 10_000_000_000
LIMITS = WaitSettings(wait_s=300.0)
PULL = PullSettings()
ME: MemberStart = ("me:1", 1)
STEP_S = 0.25


def contender(name: str, *, reads: bool = True, held: int = 0) -> Contender:
    return Contender((f"{name}:1", 1), reads, held)


def alone() -> Electorate:
    return Electorate()


def run(
    seen: Callable[[float], Electorate],
    settings: WaitSettings = LIMITS,
    me: MemberStart | None = ME,
) -> tuple[float, str]:
    """When the worker reads storage, in seconds, and why."""
    policy = WaitPolicy(me, WHO, NBYTES, settings, PULL, 0.0, settings.wait_s)
    now = 0.0
    while now < 10 * settings.wait_s + 10:
        move = policy.decide(seen(now), now)
        if isinstance(move, ReadStorage):
            return now, move.reason
        now += STEP_S
    raise AssertionError("it waits for ever")


def reading(rate: float, until: float = float("inf")) -> Callable[[float], Electorate]:
    """One reader with this many bytes per second, which is gone at `until`."""

    def seen(now: float) -> Electorate:
        there = (contender("r", held=int(rate * now)),) if now < until else ()
        return Electorate(there, company=bool(there))

    return seen


def test_alone_it_reads_at_once() -> None:
    assert run(lambda now: alone()) == (0.0, "")


def test_in_company_it_listens_before_it_reads() -> None:
    took, _ = run(lambda now: Electorate(company=True))
    assert LIMITS.settle_s <= took < LIMITS.settle_s + 2 * STEP_S


def test_it_gives_a_reader_time_to_say_what_it_reads() -> None:
    took, _ = run(lambda now: Electorate(company=True, unnamed=True))
    assert LIMITS.grace_s <= took < LIMITS.grace_s + 2 * STEP_S


def test_it_waits_no_longer_than_the_setting() -> None:
    took, why = run(reading(NBYTES / 1000))
    assert took < LIMITS.wait_s + STEP_S
    took, why = run(reading(NBYTES / 400))
    assert took == pytest.approx(LIMITS.wait_s, abs=STEP_S)
    assert "WAIT_FOR_SOURCE" in why


def test_it_reads_as_soon_as_the_reader_is_gone() -> None:
    took, why = run(reading(NBYTES / 100, until=50.0))
    assert 50.0 <= took <= 50.0 + STEP_S
    assert "r:1 is gone" in why


def test_a_reader_that_stands_still_is_passed_over() -> None:
    took, why = run(lambda now: Electorate((contender("r", held=7),), company=True))
    assert PULL.peer_budget_s <= took <= PULL.peer_budget_s + 2 * STEP_S
    assert "PEER_BUDGET" in why


def test_drops_are_no_progress() -> None:
    took, why = run(lambda now: Electorate((contender("r", held=int(now) * 65536),), company=True))
    assert took < LIMITS.wait_s
    assert "MIN_RATE" in why


def test_an_elected_worker_that_does_not_begin_is_passed_over() -> None:
    # Some of eight names come before this worker's in the order.
    able = tuple(contender(name, reads=False) for name in "abcdefgh")
    took, why = run(lambda now: Electorate(able, company=True))
    assert took <= LIMITS.settle_s + 9 * (LIMITS.grace_s + 2 * STEP_S)
    assert took == LIMITS.settle_s or "has not begun" in why


def test_nobody_waits_for_weights_that_nobody_can_serve() -> None:
    took, why = run(
        lambda now: Electorate((contender("r"),), True, unshared="x serves nobody: packed")
    )
    assert (took, why) == (0.0, "x serves nobody: packed")


def test_a_worker_without_files_waits_for_the_reader_as_well() -> None:
    took, _ = run(reading(NBYTES / 100, until=50.0), me=None)
    assert 50.0 <= took <= 50.0 + STEP_S


@dataclass
class Crowd:
    """Somebody always loads the same, and at each look serves as a process of another name."""

    looks: int = 0

    def survey(self, *asked: object) -> Electorate:
        return Electorate((contender("r"),), company=True)

    def find(self, *asked: object) -> tuple[Candidate, ...]:
        self.looks += 1
        return (Candidate("r:1", BY_MESH, self.looks),)

    def update(self, role: str, **changes: object) -> bool:
        """What this worker says of itself."""
        return True


def test_sources_that_come_under_ever_new_names_do_not_prolong_it() -> None:
    crowd = Crowd()
    membership = SimpleNamespace(absent="", name="me:1", generation=1, update=crowd.update)
    config = SimpleNamespace(wait_for_source_s=1.0, storage_loaders=1, pull_settings=PULL)
    worker = SimpleNamespace(
        config=config,
        membership=membership,
        peers=crowd,
        telemetry=SILENT,
        progress=Progress(cast(Membership, membership), lambda: 2),
    )
    sought = Sought(
        cast(Worker, worker),
        WHO,
        processed=None,
        transports=("tcp",),
        nbytes=NBYTES,
        content=LazyContent({}),
        readable=False,
        shareable=True,
        shows_progress=False,
    )
    now = 0.0
    waits = SourceWait(sought, LIMITS, lambda: now, lambda seconds: None)
    while isinstance(move := waits.wait(), SourceCame):
        now += PULL.peer_budget_s  # A pull from it, which brings nothing.
        assert now <= LIMITS.wait_s + PULL.peer_budget_s
    assert move.reason == "sources came and failed for 300 s"


@dataclass
class Someone:
    process: MemberStart
    policy: WaitPolicy
    comes: float
    dies: float = float("inf")
    rate: float = NBYTES / 60
    reads_since: float | None = None
    reasons: list[str] = field(default_factory=list)


@pytest.mark.parametrize("seed", range(60))
def test_in_any_group_somebody_reads_and_nobody_waits_for_ever(seed: int) -> None:
    """Workers come, die, stand still, and hear of each other late."""
    rng = random.Random(seed)
    settings = replace(LIMITS, loaders=rng.choice((1, 1, 2)))
    group = []
    for number in range(rng.randint(1, 12)):
        process = (f"w{number}:1", number)
        comes = rng.uniform(0, rng.choice((0.1, 5.0)))
        policy = WaitPolicy(process, WHO, NBYTES, settings, PULL, comes, comes + settings.wait_s)
        one = Someone(process, policy, comes)
        one.dies = rng.choice((float("inf"), float("inf"), rng.uniform(0, 100)))
        one.rate = rng.choice((NBYTES / 60, NBYTES / 60, NBYTES / 5000, 0.0))
        group.append(one)
    late_s = rng.choice((0.0, 0.1, 0.3))
    healthy = all(one.dies == float("inf") and one.rate > NBYTES / 100 for one in group)
    done_at: float | None = None
    now = 0.0
    while done_at is None and now < 2 * settings.wait_s:
        for one in group:
            if one.reads_since is not None or not one.comes <= now < one.dies:
                continue
            rest = tuple(
                Contender(
                    other.process,
                    began is not None,
                    0 if began is None else int(other.rate * max(0.0, now - late_s - began)),
                )
                for other in group
                if other is not one and other.comes + late_s <= now < other.dies + late_s
                for began in [
                    other.reads_since
                    if other.reads_since is not None and other.reads_since + late_s <= now
                    else None
                ]
            )
            move = one.policy.decide(Electorate(rest, company=bool(rest)), now)
            assert isinstance(move, Wait | ReadStorage)
            if isinstance(move, ReadStorage):
                one.reads_since = now
            assert now <= one.comes + settings.wait_s + STEP_S
        if any(
            one.reads_since is not None
            and now < one.dies
            and one.rate * (now - one.reads_since) >= NBYTES
            for one in group
        ):
            done_at = now
        now += STEP_S
    readers = [one for one in group if one.reads_since is not None]
    assert readers or all(one.dies < 10 for one in group)
    if healthy:
        assert len(readers) <= settings.loaders
        assert done_at is not None
        assert done_at < 60 + 5 + settings.settle_s + 2
