"""Fan-outs in virtual time, by the product's own decisions. In small: 64 chunks instead of 256.

`python -m netsim.dataplane.evidence` plays the targets at full size.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from netsim.dataplane import bound, evidence
from netsim.dataplane.fanout import FanoutResult, play
from netsim.dataplane.options import PAYLOAD, Churn, FanoutOptions

RATE = 50e6
SMALL = FanoutOptions(replicas=8, rate=RATE, nbytes=64_000_000, chunk_bytes=1_000_000)
IDEAL_S = SMALL.nbytes / RATE
ONE_PULL_S = IDEAL_S / PAYLOAD + SMALL.open_s
"""From one source that serves nobody else."""


def swarm(**changes: object) -> FanoutResult:
    result = play(replace(SMALL, **changes))  # type: ignore[arg-type]
    assert result.fetched_twice == 0
    return result


def test_one_replica_needs_the_time_of_the_bytes() -> None:
    """Measured with real processes: 1.05 x bytes / rate."""
    for policy in ("upstream", "naive", "swarm"):
        assert swarm(replicas=1, policy=policy).makespan_s == pytest.approx(ONE_PULL_S, rel=0.02)


@pytest.mark.parametrize(("replicas", "measured"), [(4, 4.2), (8, 8.4)])
def test_upstream_needs_as_many_times_as_there_are_replicas(replicas: int, measured: float) -> None:
    """`measured` is what namespaces and real processes gave, as a multiple of bytes / rate."""
    assert swarm(replicas=replicas, policy="upstream").ratio == pytest.approx(measured, rel=0.1)


def test_complete_sources_alone_help_only_those_who_come_late() -> None:
    naive = swarm(policy="naive")
    assert 4.0 < naive.ratio < 6.0
    assert naive.source_bytes == SMALL.sessions * SMALL.nbytes


def test_a_swarm_is_up_in_little_more_than_the_time_of_one() -> None:
    result = swarm()
    # What 64 chunks cost more than 256: a chunk passes two hops, each at a quarter of the link.
    assert result.ratio < 1.30
    assert result.source_bytes <= 1.5 * SMALL.nbytes
    assert result.makespan_s < 1.3 * result.bound_s


def test_the_same_options_give_the_same_run() -> None:
    assert swarm(replicas=4, seed=3) == swarm(replicas=4, seed=3)
    assert swarm(replicas=4, seed=3) != swarm(replicas=4, seed=4)


def test_twice_the_replicas_take_a_tenth_longer_at_most() -> None:
    results = [swarm(replicas=size) for size in (4, 8, 16)]
    assert evidence.grows_gently(results[1:])
    # A member talks with as many as before.
    assert results[2].control_bytes <= 1.1 * results[1].control_bytes


def test_a_slow_replica_is_late_alone() -> None:
    result = swarm(rates={3: RATE / 4})
    assert result.makespan_s <= 1.15 * result.bound_s
    others = sorted(result.per_replica_s)[:-1]
    assert max(others) <= 1.5 * ONE_PULL_S


def test_a_slow_source_is_what_limits_all() -> None:
    result = swarm(rates={0: RATE / 4})
    assert result.makespan_s <= 1.2 * result.bound_s
    assert result.source_bytes <= 1.2 * SMALL.nbytes


def test_replicas_of_one_host_fetch_each_chunk_once_over_its_link() -> None:
    result = swarm(replicas=4, placement=(4,))
    assert result.makespan_s <= 1.1 * ONE_PULL_S
    assert result.source_bytes <= 1.05 * SMALL.nbytes


def test_one_reads_storage_and_the_others_pull() -> None:
    cold = replace(SMALL, has_source=False, storage_rate=RATE)
    served_while_read = play(cold)
    assert served_while_read.storage_bytes == SMALL.nbytes
    assert served_while_read.ratio <= 1.5
    once_read = play(replace(cold, serve_while_reading=False))
    assert once_read.storage_bytes == SMALL.nbytes
    assert once_read.ratio <= 2.4
    everybody = play(replace(cold, policy="naive"))
    assert everybody.storage_bytes == 8 * SMALL.nbytes
    assert everybody.ratio > 8.0


@pytest.mark.parametrize("seed", [1, 2])
def test_the_killed_are_replaced_and_nobody_begins_again(seed: int) -> None:
    result = swarm(seed=seed, churn=Churn(IDEAL_S / 4, 8))
    assert len(result.per_replica_s) == 8
    assert max(result.per_replica_s) <= 1.6 * ONE_PULL_S


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({}, 1.0),
        ({"rates": {0: RATE / 2}}, 2.0),
        ({"rates": {5: RATE / 4}}, 4.0),
        ({"rates": dict.fromkeys(range(1, 9), RATE / 4) | {0: RATE}}, 4.0),
        ({"rates": dict.fromkeys(range(8), RATE / 2)}, 2.0),
        ({"replicas": 4, "placement": (4,)}, 1.0),
    ],
    ids=["equal", "slow source", "one slow", "quick source", "one quick", "one host"],
)
def test_the_bound_is_the_longest_of_three_times(changes: dict[str, object], least: float) -> None:
    options = replace(SMALL, **changes)  # type: ignore[arg-type]
    assert bound.least_s(options) * PAYLOAD / IDEAL_S == pytest.approx(least)


def test_what_all_must_send_can_be_the_longest() -> None:
    """Sources that send slower than they receive do not exist here; many and one quick source
    do."""
    options = replace(SMALL, replicas=3, rates={0: RATE, 1: RATE, 2: RATE, 3: RATE})
    assert bound.least_s(options) * PAYLOAD == pytest.approx(IDEAL_S)
