"""Which workers make one replica, by what is known, and never by a guess."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import ALONE, GENERATION, holding, member

from mesh_inspect.view.groups import BY, RowGroup, groups
from mesh_inspect.view.models import Coverage, coverages
from mesh_inspect.view.replicas import MAX_NAMED, replica_sets
from mesh_inspect.view.rows import RankPlace, rows_of
from netloader.discovery.advert import Holding
from netmesh import Generation, Member, Status

TWO = replace(ALONE, tp_size=2)


def worker(
    where: str,
    rank: int,
    started_s: int = 0,
    of: RankPlace = TWO,
    status: Status = Status.ALIVE,
    **changes: object,
) -> Member:
    """A worker of `HOST:PORT` that holds this rank."""
    held = holding("org/a", replace(of, tp_rank=rank), **changes)
    one = member(held, id=where, status=status)
    return replace(one, generation=Generation(GENERATION + (started_s * 1000 << 22)))


def replicas(*members: Member) -> list[tuple[list[str], int, int]]:
    """Of each set: its members, and how many replicas are complete and begun."""
    return [
        (sorted(row.member.id for row in one.rows), one.complete, one.replicas)
        for one in replica_sets(rows_of(members))
    ]


def test_the_ranks_of_a_host_are_a_replica() -> None:
    one = [worker("a:1", 0), worker("a:2", 1)]
    other = [worker("b:1", 0), worker("b:2", 1)]
    assert replicas(*one, *other) == [(["a:1", "a:2"], 1, 1), (["b:1", "b:2"], 1, 1)]


def test_a_replica_may_lie_on_two_hosts() -> None:
    spread = [worker("a:1", 0), worker("b:1", 1)]
    assert replicas(*spread) == [(["a:1", "b:1"], 1, 1)]
    whole = [worker("c:1", 0), worker("c:2", 1)]
    assert replicas(*whole, *spread) == [(["c:1", "c:2"], 1, 1), (["a:1", "b:1"], 1, 1)]


def test_starts_tell_replicas_apart_only_if_they_do_not_overlap() -> None:
    first = [worker("a:1", 0, 0), worker("a:2", 1, 5)]
    later = [worker("a:3", 0, 60), worker("a:4", 1, 61)]
    assert replicas(*first, *later) == [(["a:1", "a:2"], 1, 1), (["a:3", "a:4"], 1, 1)]
    together = [worker("a:3", 0, 4), worker("a:4", 1, 9)]
    assert replicas(*first, *together) == [(["a:1", "a:2", "a:3", "a:4"], 2, 2)]
    # One worker of a later replica is still missing: whose is the other one?
    assert replicas(*first, later[0]) == [(["a:1", "a:2", "a:3"], 1, 2)]


def test_a_rank_that_nobody_has_is_missing() -> None:
    (one,) = replica_sets(rows_of([worker("a:1", 1)]))
    assert (one.present, one.missing, one.complete) == (1, 1, 0)
    (group,) = groups(rows_of([worker("a:1", 1)]), "model")
    assert group.missing == (["tp0"], 1)


def test_the_dead_make_no_replica_with_the_living() -> None:
    found = replicas(worker("a:1", 0), worker("a:2", 1, status=Status.DEAD))
    assert found == [(["a:1"], 0, 1), (["a:2"], 0, 1)]


def test_other_weights_are_another_make() -> None:
    one, other = worker("a:1", 0), worker("a:2", 1, content={"sample": "0ther"})
    assert [count for _, count, _ in replicas(one, other)] == [0, 0]
    shards = worker("a:2", 1)
    (held,) = shards.advert["holdings"]  # type: ignore[misc]
    assert isinstance(held, dict) and isinstance(held["fields"], dict)
    held["fields"] |= {"shards": "b", "shard.Linear": "tp 1/2", "dcp_rank": 1}
    # These follow from the rank, so they may differ.
    assert replicas(one, shards) == [(["a:1", "a:2"], 1, 1)]


def test_data_parallel_ranks_of_experts_are_ranks() -> None:
    def expert(port: int, dp: int, tp: int) -> Member:
        made = holding("org/moe", replace(TWO, tp_rank=tp, ep_size=4, ep_rank=2 * dp + tp))
        fields = {**made.fields, "dp_size": 2, "dp_rank": dp}
        return member(made.changed(fields=fields), id=f"a:{port}")

    (one,) = replica_sets(
        rows_of([expert(1 + 2 * dp + tp, dp, tp) for dp in (0, 1) for tp in (0, 1)])
    )
    assert (one.make.split, one.make.ranks, one.present, one.complete) == ("dp2,tp2", 4, 4, 1)
    (group,) = groups(rows_of([expert(1, 0, 0), expert(2, 1, 1)]), "model")
    assert group.missing == (["dp0,tp1", "dp1,tp0"], 2)


def test_a_worker_that_claims_absurd_ranks_costs_nothing() -> None:
    huge = RankPlace(2**62, 2**62 + 5, 2**62, 3, 1, 0)
    (one,) = replica_sets(rows_of([worker("a:1", 2**62 + 5, of=huge)]))
    assert one.present == 0 and one.make.ranks == 2**63 - 1
    (group,) = groups(rows_of([worker("a:1", 0, of=huge)]), "model")
    names, count = group.missing
    assert len(names) == MAX_NAMED and count == 2**63 - 2
    (coverage,) = coverages(rows_of([worker("a:1", 0, of=huge)]))
    assert coverage.complete == 0


def covered(*members: Member) -> Coverage:
    (found,) = coverages(rows_of(members))
    return found


def test_a_model_can_be_served_as_often_as_its_rarest_rank() -> None:
    ranks = [worker("a:1", 0), worker("b:1", 0), worker("c:1", 1)]
    assert covered(*ranks).complete == 1
    assert covered(*ranks, worker("d:1", 1)).complete == 2
    gone = covered(*ranks[:2], worker("c:1", 1, status=Status.STALLED))
    assert (gone.complete, gone.missing) == (0, (["tp1"], 1))
    loading = covered(*ranks[:2], worker("c:1", 1, state="loading", nbytes=0))
    assert (loading.complete, loading.loading, loading.ready) == (0, 1, 2)


def test_what_is_gone_serves_nothing() -> None:
    dead = worker("a:1", 0, status=Status.DEAD)
    assert coverages(rows_of([dead, member()])) == []


def test_bytes_are_those_of_one_copy() -> None:
    found = covered(
        worker("a:1", 0, nbytes=5), worker("b:1", 0, nbytes=5), worker("c:1", 1, nbytes=7)
    )
    assert found.nbytes == 12
    ranks = found.document()["ranks"]
    assert isinstance(ranks, list)
    assert [(one["rank"], one["ready"], one["sources"]) for one in ranks] == [
        ("tp0", 2, ["a:1", "b:1"]),
        ("tp1", 1, ["c:1"]),
    ]


numbers = st.integers(min_value=-2, max_value=2**64)
parts = st.dictionaries(
    st.sampled_from(["tp_size", "tp_rank", "pp_size", "pp_rank", "dp_size", "dp_rank", "shards"]),
    numbers | st.text(max_size=3),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(parts, st.sampled_from(list(Status))), max_size=6))
def test_every_row_is_in_one_group_whatever_it_claims(
    claims: list[tuple[dict[str, int | str], Status]],
) -> None:
    def claimed(number: int, fields: dict[str, int | str], status: Status) -> Member:
        made: Holding = holding("org/a")
        advert = {**made.fields, **fields}
        return member(made.changed(fields=advert), id=f"h{number % 3}:{number + 1}", status=status)

    rows = rows_of([claimed(n, fields, status) for n, (fields, status) in enumerate(claims)])
    for by in BY:
        made: list[RowGroup] = groups(rows, by)
        assert sorted(row.member.id for one in made for row in one.rows) == sorted(
            row.member.id for row in rows
        )
        for one in made:
            document = one.document()
            assert document["members"]
    for coverage in coverages(rows):
        assert 0 <= coverage.complete <= len(rows)
        coverage.document()


@pytest.mark.parametrize("by", BY)
def test_a_group_tells_what_its_rows_have_in_common(by: str) -> None:
    rows = rows_of([worker("a:1", 0), worker("a:2", 1, state="loading", total=8, held=4)])
    made = {one.condition for one in groups(rows, by)}  # type: ignore[arg-type]
    assert made == ({"ready", "loading"} if by == "identity" else {"1 ready,1 loading"})
