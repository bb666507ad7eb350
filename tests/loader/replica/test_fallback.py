"""A pull whose fastest transport cannot be opened goes on with the next, from the same source."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from tests.loader.support import (
    GENERATION,
    MEMORY,
    candidate,
    equal,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
)
from torch._C._distributed_c10d import Store

from netloader.discovery.candidate import Candidate
from netloader.replica.outcome import Unopened
from netloader.replica.pull import Pull
from netloader.source.service import Source
from netloader.transport import REPLICA, SOURCE, Backend, Group, TransportError
from netloader.transport.gloo import GlooBackend

WEIGHTS = toy_weights(1)


@dataclass
class Fast:
    """Memory by another name. Can be opened unless this rank is `broken`."""

    broken: tuple[int, ...] = ()
    name: str = "fast"
    connections: int = 0
    opened: list[int] = field(default_factory=list)

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        self.opened.append(rank)
        if rank in self.broken:
            raise TransportError("no device memory")
        return MEMORY.open(store, rank, host, timeout)


def knows(source: Source, *transports: str) -> Candidate:
    return Candidate(source.endpoint, "test", GENERATION, transports or None)


def carried(pull: Pull) -> list[str]:
    return [delivery.transport for delivery in pull.deliveries]


def test_the_best_transport_that_both_have_carries_the_bytes() -> None:
    replica, fast = toy_weights(), Fast()
    pull = pull_into(replica, backends=(fast, GlooBackend()))
    with serving(offer_of(WEIGHTS, backends=(fast, GlooBackend()))) as source:
        pull_from(pull, knows(source, "fast", "gloo"))
    assert equal(replica, WEIGHTS)
    assert carried(pull) == ["fast"]
    assert pull.failures == ()


@pytest.mark.parametrize("broken", [(SOURCE,), (REPLICA,), (SOURCE, REPLICA)], ids=str)
def test_the_same_source_is_asked_once_more_for_the_next_transport(broken: tuple[int, ...]) -> None:
    replica, fast = toy_weights(), Fast(broken)
    pull = pull_into(replica, backends=(fast, GlooBackend()))
    with serving(offer_of(WEIGHTS, backends=(fast, GlooBackend()))) as source:
        pull_from(pull, knows(source, "fast", "gloo"))
    assert equal(replica, WEIGHTS)
    assert carried(pull) == ["gloo"]
    (failure,) = pull.failures
    assert isinstance(failure.how, Unopened)
    assert failure.how.transport == "fast"
    assert "no process group by fast" in str(failure)
    assert fast.opened.count(REPLICA) == 1


@pytest.mark.parametrize("told", [True, False], ids=["by its advert", "in a SOURCE list"])
def test_a_source_without_the_best_transport_is_asked_for_one_that_it_has(told: bool) -> None:
    replica, fast = toy_weights(), Fast()
    pull = pull_into(replica, backends=(fast, GlooBackend()))
    old = offer_of(WEIGHTS, backend=GlooBackend())  # As a peer of an older version.
    with serving(old) as source:
        pull_from(pull, knows(source, *(["gloo"] if told else [])))
    assert equal(replica, WEIGHTS)
    assert carried(pull) == ["gloo"]
    assert fast.opened == []
    assert [failure.how.reason for failure in pull.failures] == (
        [] if told else ["refused: mine gloo, theirs fast"]
    )


def test_a_replica_without_the_best_transport_gets_one_that_it_has() -> None:
    replica, fast = toy_weights(), Fast()
    pull = pull_into(replica, backend=GlooBackend())
    with serving(offer_of(WEIGHTS, backends=(fast, GlooBackend()))) as source:
        pull_from(pull, candidate(source))
    assert equal(replica, WEIGHTS)
    assert carried(pull) == ["gloo"]
    assert fast.opened == []


def test_other_sources_are_not_held_up_by_one_whose_transport_fails() -> None:
    replica = toy_weights()
    works, fails = Fast(), Fast((SOURCE,))
    pull = pull_into(replica, backends=(Fast(), GlooBackend()))
    with (
        serving(offer_of(WEIGHTS, backends=(fails, GlooBackend()))) as one,
        serving(offer_of(WEIGHTS, backends=(works,))) as other,
    ):
        pull_from(pull, knows(one, "fast", "gloo"), knows(other, "fast"))
    assert equal(replica, WEIGHTS)
    assert set(carried(pull)) <= {"fast", "gloo"}
    assert sum(delivery.nbytes for delivery in pull.deliveries) == pull.nbytes


def test_without_a_common_transport_storage_is_told_why() -> None:
    backends: tuple[Backend, ...] = (Fast(),)
    pull = pull_into(toy_weights(), backends=backends)
    with (
        serving(offer_of(WEIGHTS, backend=GlooBackend())) as source,
        pytest.raises(Exception, match="refused: mine gloo, theirs fast"),
    ):
        pull_from(pull, knows(source))
