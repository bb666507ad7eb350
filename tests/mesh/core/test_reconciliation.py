from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from netmesh.core import reconciliation
from netmesh.core.changes import TOLD, apply, causes_of
from netmesh.core.claims import Claim
from netmesh.core.fields import claim_bytes
from netmesh.core.messages import Digest, Entry, Exchange
from netmesh.core.records import (
    BUCKETS,
    Generation,
    MemberId,
    Record,
    Status,
    bucket_of,
    pack_advert,
)
from netmesh.core.settings import ProtocolSettings
from netmesh.core.table import Table
from netmesh.core.wire import Codec

ME = Record(MemberId("me:1"), Generation(1), 0, Status.ALIVE, 1, pack_advert({}))
ALL = tuple(range(BUCKETS))
BIG = pack_advert({"a": "x" * 8000})
CODEC = Codec("test")

records = st.builds(
    lambda index, generation, incarnation, status, version: Record(
        MemberId(f"10.0.0.{index}:1"),
        Generation(generation),
        incarnation,
        status,
        version,
        pack_advert({"v": [generation, version]}),
    ),
    st.integers(0, 5),
    st.integers(1, 2),
    st.integers(0, 1),
    st.sampled_from([Status.ALIVE, Status.STALLED, Status.SUSPECT]),
    st.integers(1, 2),
)


def table(*content: Record) -> Table:
    made = Table(ME)
    for record in content:
        made.put(record, 0.0)
    return made


def take(made: Table, claims: tuple[Claim, ...]) -> None:
    for claim in claims:
        old = made.get(claim.id)
        change = apply(old, claim, causes_of(old, claim, TOLD.get(claim.status)))
        if change is not None:
            made.put(change.new, 1.0)


@given(st.lists(records), st.lists(records))
def test_one_exchange_makes_two_tables_equal(left: list[Record], right: list[Record]) -> None:
    a, b = table(*left), table(*right)
    buckets = reconciliation.differing(b, reconciliation.bucket_hashes(a))
    named, entries = reconciliation.bucket_digest(b, buckets, 10**6)
    assert list(named) == buckets
    found = reconciliation.compare(a, named, entries, 10**6)
    take(a, found.heads)
    take(b, found.news)
    take(a, reconciliation.records_of(b, found.want, 10**6)[0])
    assert a.root == b.root
    a.check()
    b.check()


def test_equal_tables_name_no_bucket() -> None:
    a = table(*(replace(ME, id=MemberId(f"h{i}:1")) for i in range(50)))
    assert reconciliation.differing(a, reconciliation.bucket_hashes(a)) == []


def test_a_status_that_changed_travels_without_the_advert() -> None:
    x = replace(ME, id=MemberId("x:1"))
    suspect = replace(x, status=Status.SUSPECT)
    _, entries = reconciliation.bucket_digest(table(x), list(ALL), 10**6)
    found = reconciliation.compare(table(suspect), ALL, entries, 10**6)
    assert [c.advert for c in found.news if c.id == x.id] == [None]
    _, entries = reconciliation.bucket_digest(table(suspect), list(ALL), 10**6)
    found = reconciliation.compare(table(x), ALL, entries, 10**6)
    assert [c.status for c in found.heads] == [Status.SUSPECT] and found.want == ()


def test_a_tombstone_answers_for_a_member_that_the_other_still_lists() -> None:
    x = replace(ME, id=MemberId("x:1"))
    dead = table(replace(x, status=Status.DEAD))
    found = reconciliation.compare(dead, ALL, reconciliation.full_digest(table(x)), 10**6)
    assert [c.status for c in found.news if c.id == x.id] == [Status.DEAD]


def test_the_dead_of_others_are_not_asked_for() -> None:
    dead = table(replace(ME, id=MemberId("x:1"), status=Status.DEAD))
    found = reconciliation.compare(table(), ALL, reconciliation.full_digest(dead), 10**6)
    assert found.want == ()


def crowd(count: int) -> Table:
    advert = pack_advert({"model": "x" * 500})
    return table(*(replace(ME, id=MemberId(f"n{i}:1"), advert=advert) for i in range(count)))


def test_pages_hold_everybody_once_and_stay_in_their_budget() -> None:
    made = crowd(400)
    cursor: int | None = 0
    seen: list[MemberId] = []
    pages = 0
    while cursor is not None:
        claims, cursor = reconciliation.page(made, cursor, 32_000, since=None)
        assert sum(map(claim_bytes, claims)) <= 32_000
        seen += [claim.id for claim in claims]
        pages += 1
    assert pages > 5
    assert sorted(seen) == sorted(made.ring)


def test_a_cursor_past_the_end_ends_the_paging() -> None:
    assert reconciliation.page(crowd(3), 10**6, 1000, since=None) == ((), None)


def test_observers_see_the_recently_dead_once() -> None:
    made = crowd(3)
    made.put(replace(ME, id=MemberId("n1:1"), status=Status.DEAD), 5.0)
    claims, cursor = reconciliation.page(made, 0, 10**6, since=0.0)
    assert cursor is None
    assert [c.status for c in claims if c.id == "n1:1"] == [Status.DEAD]


def test_a_large_difference_is_cut_and_says_so() -> None:
    found = reconciliation.compare(crowd(400), ALL, (), 50_000)
    assert found.more
    assert 0 < sum(map(claim_bytes, found.news)) <= 50_000


def long_ids(count: int) -> list[MemberId]:
    """Ids of full length, made to fall into one bucket."""
    found: list[MemberId] = []
    number = 0
    while len(found) < count:
        label = f"{number}."
        member = MemberId(label + "x" * (253 - len(label)) + ":17946")
        number += 1
        if bucket_of(member) == 7:
            found.append(member)
    return found


def test_ids_made_to_collide_do_not_make_a_digest_that_cannot_be_sent() -> None:
    members = long_ids(900)
    made = table(*(Record(m, Generation(1), 0, Status.ALIVE, 1, ME.advert) for m in members))
    budget = ProtocolSettings().page_bytes
    named, entries = reconciliation.bucket_digest(made, [7, 8], budget)
    assert named == (7,) and 0 < len(entries) < 900
    CODEC.encode(Digest(ME.id, ME.generation, True, named, entries))


def test_what_is_wanted_fits_into_a_message_beside_a_page_of_news() -> None:
    wanted = [Entry(m, Generation(1), 0, 0, 1) for m in long_ids(700)]
    own = [
        Record(MemberId(f"10.0.{i}.1:1"), Generation(1), 0, Status.ALIVE, 1, BIG) for i in range(99)
    ]
    budget = ProtocolSettings().page_bytes
    found = reconciliation.compare(table(*own), (), wanted, budget)
    assert found.more and found.want and found.news
    CODEC.encode(Exchange(ME.id, ME.generation, True, found.news, found.want, found.more))
