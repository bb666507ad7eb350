import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmesh.core.records import (
    DAY_MS,
    MAX_ADVERT_BYTES,
    MAX_GENERATION,
    Advert,
    Generation,
    MemberId,
    Record,
    Status,
    merge,
    new_generation,
    new_record,
    pack_advert,
    started_ms,
    unpack_advert,
)
from netmesh.errors import LocalProtocolError

A = MemberId("10.0.0.1:17946")

# Few values, so that every tie occurs.
records = st.builds(
    Record,
    st.just(A),
    st.integers(1, 3).map(Generation),
    st.integers(0, 2),
    st.sampled_from(Status),
    st.integers(1, 3),
    st.sampled_from([Advert(b"{}"), Advert(b'{"a":1}')]),
)


@given(records, records)
def test_merge_is_commutative(a: Record, b: Record) -> None:
    assert merge(a, b) == merge(b, a)


@given(records, records, records)
def test_merge_is_associative(a: Record, b: Record, c: Record) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(records, records)
def test_merge_is_idempotent(a: Record, b: Record) -> None:
    assert merge(a, a) == a
    assert merge(merge(a, b), b) == merge(a, b)


@given(records, records)
def test_equal_digests_mean_equal_heads(a: Record, b: Record) -> None:
    heads = [(r.generation, r.incarnation, r.status, r.version) for r in (a, b)]
    assert (a.digest == b.digest) == (heads[0] == heads[1])


def test_a_restart_wins_whole_over_any_verdict_on_the_old_process() -> None:
    old = Record(A, Generation(5), 9, Status.LEFT, 9, Advert(b"{}"))
    new = Record(A, Generation(6), 0, Status.ALIVE, 1, Advert(b"{}"))
    assert merge(old, new) == new


def test_a_suspicion_does_not_bring_an_old_advert_back() -> None:
    current = Record(A, Generation(5), 0, Status.ALIVE, 7, Advert(b'{"ready":true}'))
    suspicion = Record(A, Generation(5), 0, Status.SUSPECT, 3, Advert(b'{"ready":false}'))
    merged = merge(current, suspicion)
    assert merged.status is Status.SUSPECT
    assert merged.advert == b'{"ready":true}'


def test_a_higher_incarnation_refutes_a_death() -> None:
    dead = Record(A, Generation(5), 3, Status.DEAD, 1, Advert(b"{}"))
    alive = Record(A, Generation(5), 4, Status.ALIVE, 1, Advert(b"{}"))
    assert merge(dead, alive).status is Status.ALIVE


def test_records_of_two_members_do_not_merge() -> None:
    with pytest.raises(LocalProtocolError):
        merge(new_record(A, Generation(1), {}), new_record(MemberId("b:1"), Generation(1), {}))


@given(st.integers(0, 2**41 - 2 - DAY_MS), st.integers(0, 2**64))
def test_generations_are_ordered_by_start_and_stay_in_63_bits(ms: int, bits: int) -> None:
    generation = new_generation(ms, bits)
    assert 0 <= generation <= MAX_GENERATION
    assert started_ms(generation) == ms
    assert new_generation(ms + 1, 0) > generation


def test_adverts_are_canonical() -> None:
    assert pack_advert({"b": 1, "a": [2]}) == pack_advert({"a": [2], "b": 1})
    assert unpack_advert(pack_advert({"a": [2]})) == {"a": [2]}


def test_an_advert_that_is_too_large_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match=str(MAX_ADVERT_BYTES)):
        pack_advert({"a": "x" * MAX_ADVERT_BYTES})
