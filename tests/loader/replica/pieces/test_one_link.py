"""Who of a host fetches a chunk over the network."""

from __future__ import annotations

from netloader.replica.pieces.one_link import OneLink

CHUNKS = 60
ALL = set(range(CHUNKS))
NAMES = ("h:1", "h:2", "h:3", "h:4")
PATIENCE_S = 0.5


def left(link: OneLink, now: float, chunks: set[int] = ALL) -> set[int]:
    """Chunks that are left to others."""
    return {chunk for chunk in chunks if link.waits(chunk, now)}


def link_of(me: str, *others: str) -> OneLink:
    link = OneLink(me, CHUNKS, PATIENCE_S)
    link.meet(others)
    return link


def test_each_chunk_is_asked_for_by_one_replica_of_the_host() -> None:
    split = [ALL - left(link_of(me, *(set(NAMES) - {me})), 0.0) for me in NAMES]
    assert sorted(chunk for share in split for chunk in share) == list(range(CHUNKS))
    assert all(len(share) > CHUNKS / len(NAMES) / 3 for share in split)


def test_a_replica_alone_asks_for_everything() -> None:
    assert left(link_of("h:1"), 0.0) == set()


def test_others_wait_only_for_a_moment() -> None:
    link = link_of(*NAMES)
    theirs = left(link, 10.0)
    assert theirs
    assert left(link, 10.0 + PATIENCE_S / 2) == theirs
    assert left(link, 10.0 + PATIENCE_S) == set()


def test_the_wait_begins_when_a_source_has_the_chunk() -> None:
    theirs = left(link_of(*NAMES), 0.0)
    late = max(theirs)
    link = link_of(*NAMES)
    assert left(link, 0.0, ALL - {late}) == theirs - {late}
    assert left(link, PATIENCE_S) == {late}


def test_those_who_remain_share_what_the_dead_one_had() -> None:
    link = link_of(*NAMES)
    four = left(link, 0.0)
    link.meet(NAMES[1:2])
    assert left(link, 0.0) < four
