"""Which chunks are to be asked for, are on their way, have arrived; and which is next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netloader.replica.pieces.piece_picker import PiecePicker

ALL = set(range(10))


def picker(name: str = "") -> PiecePicker:
    return PiecePicker([10] * 10, (), name)


def ask(pieces: PiecePicker, *chunks: int) -> None:
    for chunk in chunks:
        pieces.ask(chunk)


def order_of(pieces: PiecePicker) -> list[int]:
    order = []
    while (chunk := pieces.next_of(ALL & pieces.wanted)) is not None:
        pieces.ask(chunk)
        order.append(chunk)
    return order


def test_chunks_are_picked_in_order() -> None:
    pieces = picker()
    assert pieces.next_of(ALL & pieces.wanted) == 0
    ask(pieces, 0)
    assert pieces.next_of(ALL & pieces.wanted) == 1
    assert pieces.wanted_bytes == 90


def test_each_replica_has_an_order_of_its_own() -> None:
    one, other = order_of(picker("a")), order_of(picker("b"))
    assert sorted(one) == sorted(other) == list(range(10))
    assert one != other
    assert order_of(picker("a")) == one


def test_the_rarest_is_picked_first() -> None:
    pieces = picker("a")
    for chunk in ALL - {3, 7}:
        pieces.spread([chunk])
    pieces.spread([3])
    pieces.spread([3])
    assert pieces.next_of(ALL & pieces.wanted) == 7
    ask(pieces, 7)
    pieces.vanish([3])
    pieces.vanish([3])
    assert pieces.next_of(ALL & pieces.wanted) == 3


def test_what_is_not_allowed_is_left_out() -> None:
    pieces = picker()
    assert pieces.next_of(ALL, lambda chunk: chunk > 1) == 2
    assert pieces.next_of({0}, lambda chunk: chunk > 1) is None


def test_only_those_that_the_source_has() -> None:
    pieces = picker()
    assert pieces.next_of({4, 7}) == 4
    ask(pieces, 4, 7)
    assert pieces.next_of(set()) is None


def test_what_is_given_back_is_next_however_common() -> None:
    pieces = picker()
    ask(pieces, 0, 1, 2, 3, 8)
    pieces.arrived(1)
    pieces.spread([8])
    pieces.give_back([8])
    assert pieces.next_of(ALL & pieces.wanted) == 8
    pieces.give_back([3, 2])
    assert pieces.next_of(ALL & pieces.wanted) == 2
    pieces.check(in_flight=[0])


@given(st.permutations(range(200)), st.sets(st.integers(0, 199)), st.integers(0, 200))
def test_few_and_many_are_picked_from_alike(
    spread: list[int], useful: set[int], count: int
) -> None:
    pieces = PiecePicker([1] * 200, (), "me")
    pieces.spread(spread[:count])
    for chunk in spread[: count // 2]:
        pieces.spread([chunk])
    pieces.check([])
    first = pieces.next_of(useful)
    expected = min(useful, key=pieces.rarity, default=None)
    assert (first is None) == (expected is None)
    if first is not None and expected is not None:
        assert pieces.rarity(first) == pieces.rarity(expected)
        assert pieces.next_of(set(range(200)), lambda chunk: chunk in useful) == first


def test_complete_when_all_have_arrived() -> None:
    pieces = picker()
    assert not pieces.complete
    ask(pieces, *ALL)
    for chunk in ALL:
        pieces.arrived(chunk)
    assert pieces.complete
    pieces.invalidate()
    assert not pieces.complete and pieces.done == frozenset()
    assert pieces.wanted == ALL and pieces.wanted_bytes == 100


def test_nothing_to_bring_is_complete() -> None:
    assert PiecePicker([], ()).complete


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "arrive", "back", "void", "spread", "vanish"]),
            st.integers(0, 5),
        )
    )
)
def test_no_chunk_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    pieces = PiecePicker([3, 1, 4, 1, 5, 9], (), "me")
    in_flight: list[int] = []
    holders = [0] * 6
    for step, number in steps:
        match step:
            case "ask":
                available = set(range(number + 1))
                chunk = pieces.next_of(available & pieces.wanted)
                assert (chunk is None) == pieces.wanted.isdisjoint(available)
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
            case "spread":
                pieces.spread([number])
                holders[number] += 1
            case "vanish" if holders[number]:
                pieces.vanish([number])
                holders[number] -= 1
        pieces.check(in_flight)
        assert [pieces.rarity(chunk) for chunk in range(6)] == holders
