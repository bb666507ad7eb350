"""Both ends begin the same transfers in the same order, and only once both have posted them."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE
from netloader.transport.turns import MAX_WAITING, Note, Turns, Word


class Ends:
    """Two ends whose words travel when the test says so."""

    def __init__(self) -> None:
        self.turns: dict[int, Turns[str]] = {rank: Turns(rank) for rank in (SOURCE, REPLICA)}
        self.words: dict[int, deque[Note]] = {SOURCE: deque(), REPLICA: deque()}
        self.begun: dict[int, list[str]] = {SOURCE: [], REPLICA: []}

    def post(self, rank: int, sends: bool, tag: int = 0, nbytes: int = 8, name: str = "") -> None:
        notes = self.turns[rank].post(sends, tag, nbytes, name)
        self.words[1 - rank].extend(notes)
        self._call(rank)

    def hear(self, rank: int) -> None:
        called = self.turns[rank].hear(self.words[rank].popleft())
        if called is not None:
            self.begun[rank].append(called)
        self._call(rank)

    def settle(self) -> None:
        while self.words[SOURCE] or self.words[REPLICA]:
            for rank in (SOURCE, REPLICA):
                while self.words[rank]:
                    self.hear(rank)

    def _call(self, rank: int) -> None:
        for note, transfer in self.turns[rank].calls():
            self.words[1 - rank].append(note)
            self.begun[rank].append(transfer)


def test_nothing_begins_at_an_end_whose_peer_has_posted_nothing() -> None:
    ends = Ends()
    ends.post(SOURCE, True)
    ends.post(REPLICA, True)
    ends.settle()
    assert ends.begun == {SOURCE: [], REPLICA: []}


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_both_ends_begin_the_same_in_the_same_order(
    posts: list[tuple[bool, bool, bool]],
) -> None:
    """Each: whether the source posts it first, whether the source sends it, and whether the ends
    hear of it at once."""
    ends = Ends()
    for number, (first, sends, heard) in enumerate(posts):
        for rank in (SOURCE, REPLICA) if first else (REPLICA, SOURCE):
            ends.post(rank, sends is (rank == SOURCE), name=str(number))
        if heard:
            ends.settle()
    ends.settle()
    assert ends.begun[SOURCE] == ends.begun[REPLICA]
    assert sorted(ends.begun[SOURCE], key=int) == [str(number) for number in range(len(posts))]
    for way in (True, False):
        mine = [int(name) for name in ends.begun[SOURCE] if posts[int(name)][1] is way]
        assert mine == sorted(mine)


@pytest.mark.parametrize(("tag", "nbytes"), [(1, 8), (0, 9), (0, 7)])
def test_ends_that_do_not_agree_on_the_next_transfer_find_out(tag: int, nbytes: int) -> None:
    ends = Ends()
    ends.post(REPLICA, False)
    ends.post(SOURCE, True, tag, nbytes)
    with pytest.raises(TransportError, match=f"{nbytes} bytes with tag {tag} .* 8 with tag 0"):
        ends.settle()


def test_a_replica_cannot_post_without_end() -> None:
    source: Turns[str] = Turns(SOURCE)
    for _ in range(MAX_WAITING):
        source.hear(Note(Word.SENDS, 0, 1))
    with pytest.raises(TransportError, match=str(MAX_WAITING)):
        source.hear(Note(Word.SENDS, 0, 1))


@pytest.mark.parametrize("word", list(Word))
def test_a_word_that_makes_no_sense_is_refused(word: Word) -> None:
    rank = SOURCE if word in (Word.CALL_REPLICA, Word.CALL_SOURCE) else REPLICA
    with pytest.raises(TransportError):
        Turns[str](rank).hear(Note(word, 0, 1))
    # Nobody has posted what it would call.
    if rank == SOURCE:
        with pytest.raises(TransportError, match="not posted"):
            Turns[str](REPLICA).hear(Note(word, 0, 1))


@given(st.binary(min_size=Note.FORMAT.size, max_size=Note.FORMAT.size))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        assert Note.decode(data).encode() == data
    except TransportError:
        assert data[0] not in list(Word)
