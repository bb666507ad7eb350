"""Which chunks are to be asked for, are on their way, have arrived."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netloader.replica.pieces.piece_picker import PiecePicker

ALL = set(range(10))


def picker(staged: tuple[int, ...] = ()) -> PiecePicker:
    return PiecePicker([10] * 10, staged)


def ask(pieces: PiecePicker, *chunks: int) -> None:
    for chunk in chunks:
        pieces.ask(chunk)


def test_chunks_are_picked_in_order() -> None:
    pieces = picker()
    assert pieces.next_of(ALL, staging=True) == 0
    ask(pieces, 0)
    assert pieces.next_of(ALL, staging=True) == 1
    assert pieces.wanted_bytes == 90


def test_only_those_that_the_source_has() -> None:
    pieces = picker()
    assert pieces.next_of({4, 7}, staging=True) == 4
    ask(pieces, 4, 7)
    assert pieces.next_of({4, 7}, staging=True) is None


def test_without_staging_memory_only_those_that_need_none() -> None:
    pieces = picker(staged=(0, 1))
    assert pieces.next_of(ALL, staging=False) == 2
    assert pieces.next_of(ALL, staging=True) == 0
    assert pieces.next_of({0, 1}, staging=False) is None


def test_what_is_given_back_is_next() -> None:
    pieces = picker()
    ask(pieces, 0, 1, 2, 3)
    pieces.arrived(1)
    pieces.give_back([3, 2])
    assert pieces.next_of(ALL, staging=True) == 2
    pieces.check(in_flight=[0])


def test_a_source_is_of_interest_while_it_has_what_is_wanted() -> None:
    pieces = picker()
    assert pieces.interested({5})
    ask(pieces, 5)
    assert not pieces.interested({5})
    ask(pieces, *ALL - {5})
    assert pieces.interested({5})  # Nothing is wanted: there is nothing that it lacks.


def test_complete_when_all_have_arrived() -> None:
    pieces = picker()
    assert not pieces.complete
    ask(pieces, *ALL)
    for chunk in ALL:
        pieces.arrived(chunk)
    assert pieces.complete
    pieces.invalidate()
    assert not pieces.complete and pieces.done == frozenset()
    assert pieces.wanted_bytes == 100


def test_nothing_to_bring_is_complete() -> None:
    assert PiecePicker([], ()).complete


@given(st.lists(st.tuples(st.sampled_from(["ask", "arrive", "back", "void"]), st.integers(0, 5))))
def test_no_chunk_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    pieces = PiecePicker([3, 1, 4, 1, 5, 9], ())
    in_flight: list[int] = []
    for step, number in steps:
        match step:
            case "ask":
                chunk = pieces.next_of(set(range(number + 1)), staging=True)
                if chunk is not None:
                    pieces.ask(chunk)
                    in_flight.append(chunk)
            case "arrive" if in_flight:
                pieces.arrived(in_flight.pop(number % len(in_flight)))
            case "back":
                pieces.give_back(in_flight[number:])
                del in_flight[number:]
            case "void":
                pieces.invalidate()
        pieces.check(in_flight)
