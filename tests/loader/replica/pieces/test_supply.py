"""What sources have and are getting, and so how rare each chunk is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netloader.replica.pieces.piece_picker import PiecePicker
from netloader.replica.pieces.supply import Supply

CHUNKS = 6
PATIENCE_S = 5.0


def supply() -> tuple[Supply, PiecePicker]:
    pieces = PiecePicker([1] * CHUNKS, ())
    return Supply(pieces, PATIENCE_S), pieces


def near(known: Supply, now: float) -> set[int]:
    return {chunk for chunk in range(CHUNKS) if known.is_near(chunk, now)}


def rarity(pieces: PiecePicker) -> list[int]:
    return [pieces.rarity(chunk) for chunk in range(CHUNKS)]


def test_each_source_that_has_a_chunk_or_gets_it_counts_once() -> None:
    known, pieces = supply()
    known.join("a", [0, 1], "")
    known.join("b", [1], "")
    known.coming("b", [1, 2], 0.0)
    assert rarity(pieces) == [1, 2, 1, 0, 0, 0]
    known.have("b", [2])
    assert rarity(pieces) == [1, 2, 1, 0, 0, 0]
    known.gone("b", [1, 5])
    known.leave("a")
    assert rarity(pieces) == [0, 0, 1, 0, 0, 0]


def test_sources_that_offer_everything_mean_that_nobody_else_pulls() -> None:
    known, _ = supply()
    assert not known.shared
    known.join("whole", range(CHUNKS), "")
    assert not known.shared
    known.join("part", range(CHUNKS - 1), "")
    assert known.shared
    known.have("part", [CHUNKS - 1])
    assert not known.shared
    known.gone("whole", [0])
    assert known.shared
    known.leave("whole")
    assert not known.shared


def test_what_sources_of_this_host_bring() -> None:
    known, _ = supply()
    known.join("far", [0], "")
    known.join("near", [1], "host:1")
    known.join("next", [1], "host:2")
    known.coming("near", [2], 1.0)
    known.coming("far", [3], 1.0)
    assert near(known, 1.0) == {1, 2}
    assert known.neighbourhood == ["host:1", "host:2"]
    known.gone("near", [1, 2])
    assert near(known, 1.0) == {1}
    known.leave("next")
    assert near(known, 1.0) == set()


def test_what_does_not_come_is_waited_for_only_so_long() -> None:
    """A replica that is stopped keeps its connection, and never says that the chunk will not
    come."""
    known, _ = supply()
    known.join("near", [], "host:1")
    known.coming("near", [2], 1.0)
    assert near(known, 1.0 + PATIENCE_S / 2) == {2}
    assert near(known, 1.0 + PATIENCE_S) == set()
    known.have("near", [2])
    assert near(known, 100.0) == {2}


def test_a_word_that_is_taken_back_and_given_anew_buys_no_time() -> None:
    known, _ = supply()
    known.join("near", [], "host:1")
    for now in range(int(PATIENCE_S)):
        known.coming("near", [2], float(now))
        assert near(known, float(now)) == {2}
        known.gone("near", [2])
        assert near(known, float(now)) == set()
    known.coming("near", [2], PATIENCE_S)
    assert near(known, PATIENCE_S) == set()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["have", "coming", "gone", "leave", "join"]),
            st.sampled_from("ab"),
            st.sets(st.integers(0, CHUNKS - 1)),
        )
    )
)
def test_rarity_is_what_the_sources_have_said(steps: list[tuple[str, str, set[int]]]) -> None:
    known, pieces = supply()
    has: dict[str, set[int]] = {}
    coming: dict[str, set[int]] = {}
    for step, source, chunks in steps:
        if (step == "join") == (source in has):
            continue
        match step:
            case "join":
                known.join(source, chunks, "")
                has[source], coming[source] = set(chunks), set()
            case "have":
                known.have(source, chunks)
                has[source] |= chunks
                coming[source] -= chunks
            case "coming":
                known.coming(source, chunks, 0.0)
                coming[source] |= chunks - has[source]
            case "gone":
                known.gone(source, chunks)
                has[source] -= chunks
                coming[source] -= chunks
            case "leave":
                known.leave(source)
                del has[source], coming[source]
        expected = [sum(chunk in has[one] | coming[one] for one in has) for chunk in range(CHUNKS)]
        assert rarity(pieces) == expected
        assert known.shared == any(len(each) < CHUNKS for each in has.values())


def test_what_is_useful_is_what_a_source_has_and_is_wanted() -> None:
    known, pieces = supply()
    pieces.ask(0)
    known.join("a", [0, 1, 2], "")
    assert known.of("a").useful == {1, 2}
    pieces.ask(1)
    known.taken(1)
    known.have("a", [3])
    known.gone("a", [2])
    assert known.of("a").useful == {3}
    pieces.give_back([0, 1])
    known.wanted_again([0, 1])
    assert known.of("a").useful == {0, 1, 3}
