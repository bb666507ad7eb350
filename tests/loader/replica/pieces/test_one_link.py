"""Who of a host fetches a chunk over the network."""

from __future__ import annotations

from netloader.replica.pieces.one_link import OneLink

CHUNKS = 60
ALL = set(range(CHUNKS))
NAMES = ("h:1", "h:2", "h:3", "h:4")
PATIENCE_S = 0.5


def shares(*names: str) -> list[set[int]]:
    """What each asks for at once, when all see all chunks."""
    found = []
    for me in names:
        sharing = OneLink(me, CHUNKS, PATIENCE_S)
        sharing.meet([name for name in names if name != me])
        found.append(ALL - sharing.left(ALL, ALL, 0.0))
    return found


def test_each_chunk_is_asked_for_by_one_replica_of_the_host() -> None:
    split = shares(*NAMES)
    assert sorted(chunk for share in split for chunk in share) == list(range(CHUNKS))
    assert all(len(share) > CHUNKS / len(NAMES) / 3 for share in split)


def test_a_replica_alone_asks_for_everything() -> None:
    assert shares("h:1") == [ALL]


def test_others_wait_only_for_a_moment() -> None:
    sharing = OneLink(NAMES[0], CHUNKS, PATIENCE_S)
    sharing.meet(NAMES[1:])
    left = sharing.left(ALL, ALL, 10.0)
    assert left
    assert sharing.left(ALL, ALL, 10.0 + PATIENCE_S / 2) == left
    assert sharing.left(ALL, ALL, 10.0 + PATIENCE_S) == set()


def test_the_wait_begins_when_a_source_has_the_chunk() -> None:
    sharing = OneLink(NAMES[0], CHUNKS, PATIENCE_S)
    sharing.meet(NAMES[1:])
    theirs = sharing.left(ALL, ALL, 0.0)
    late = max(theirs)
    again = OneLink(NAMES[0], CHUNKS, PATIENCE_S)
    again.meet(NAMES[1:])
    assert again.left(ALL - {late}, ALL, 0.0) == theirs - {late}
    assert again.left(ALL, ALL, PATIENCE_S) == {late}


def test_what_is_not_wanted_is_not_left_to_anybody() -> None:
    sharing = OneLink(NAMES[0], CHUNKS, PATIENCE_S)
    sharing.meet(NAMES[1:])
    assert sharing.left(ALL, set(), 0.0) == set()


def test_those_who_remain_share_what_the_dead_one_had() -> None:
    sharing = OneLink(NAMES[0], CHUNKS, PATIENCE_S)
    sharing.meet(NAMES[1:])
    four = sharing.left(ALL, ALL, 0.0)
    sharing.meet(NAMES[1:2])
    two = sharing.left(ALL, ALL, 0.0)
    assert two < four
