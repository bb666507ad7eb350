"""Whom to open sessions with."""

from __future__ import annotations

from collections import Counter

from netloader.replica.neighbours import Neighbour, neighbours


def partial(count: int, **more: int) -> list[Neighbour]:
    return [
        Neighbour(f"r{n}:1", complete=False, serving=more.get(f"r{n}", 0)) for n in range(count)
    ]


def test_where_nobody_else_pulls_the_best_candidates_are_taken() -> None:
    free = [Neighbour(f"s{n}:1") for n in range(6)]
    assert neighbours("me", [], free, 4) == free[:4]
    assert neighbours("me", free[:3], free[3:], 4) == free[3:4]


def test_there_are_never_more_than_the_degree() -> None:
    assert neighbours("me", partial(4), partial(9)[4:], 4) == []
    assert len(neighbours("me", partial(2), partial(9)[2:], 4)) == 2
    assert neighbours("me", partial(6), partial(9)[6:], 4) == []


def test_one_source_has_everything_and_the_others_are_drawn() -> None:
    whole = [Neighbour("s0:1"), Neighbour("s1:1")]
    chosen = neighbours("me", [], [*whole, *partial(9)], 4)
    assert [one.complete for one in chosen] == [True, False, False, False]
    assert neighbours("me", chosen, [whole[1], *partial(9)], 4) == []
    assert not neighbours("me", whole[:1], [whole[1], *partial(9)], 2)[0].complete


def test_replicas_draw_different_sources() -> None:
    """Else all would wait for the same few."""
    free = partial(16)
    drawn = Counter(one.endpoint for me in range(64) for one in neighbours(f"me{me}", [], free, 4))
    assert len(drawn) == 16 and max(drawn.values()) <= 2.2 * 64 * 4 / 16


def test_those_that_serve_few_come_first() -> None:
    free = partial(4, r0=4, r1=1, r2=4, r3=0)
    assert [one.endpoint for one in neighbours("me", [], free, 2)] == ["r3:1", "r1:1"]


def test_the_own_host_comes_first_and_one_place_is_left_for_another() -> None:
    near = [Neighbour(f"here:{n}", complete=False, near=True) for n in range(5)]
    chosen = neighbours("me", [], [Neighbour("s:1"), *partial(3), *near], 4)
    assert [one.near for one in chosen] == [True, True, True, False]
    assert chosen[3].complete


def test_if_a_kind_is_missing_the_others_get_its_places() -> None:
    near = [Neighbour(f"here:{n}", complete=False, near=True) for n in range(5)]
    assert len(neighbours("me", [], near, 4)) == 4
    assert len(neighbours("me", [], [Neighbour("s:1"), Neighbour("t:1"), *partial(1)], 4)) == 3
