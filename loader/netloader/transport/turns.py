"""Whose turn it is: the order in which the transfers of a library without tags begin.

HCCL keeps only an order, the same at both ends, and an operation that its peer never joins blocks
its stream: the process can then get rid of it only with the stream. So each end first says what it
has posted, over a line of their own (`line.py`), and no operation begins before both have posted
it. The source decides the order: it calls a transfer, and both ends begin it.

Sizes and tags are compared before a transfer begins. Tags do not overtake one another.

Pure: what to say and what to begin is returned. One object belongs to one end.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Generic, TypeVar

from netloader.errors import TransportError
from netloader.transport.base import RANKS, REPLICA, SOURCE, peer_of

T = TypeVar("T")

MAX_WAITING: Final = 4096
"""Transfers that the peer may have posted in one direction before their turn. A source has 64 under
way, a replica asks for fewer."""


class Word(IntEnum):
    """What the ends say."""

    SENDS = 1
    """The replica has posted a send."""
    RECEIVES = 2
    """The replica has posted a receive."""
    CALL_REPLICA = 3
    """The source calls the replica's next send."""
    CALL_SOURCE = 4
    """The source calls its own next send."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that an end says."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("!BqQ")

    word: Word
    tag: int
    nbytes: int

    def encode(self) -> bytes:
        return self.FORMAT.pack(self.word, self.tag, self.nbytes)

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """Raises `TransportError`."""
        word, tag, nbytes = cls.FORMAT.unpack(data)
        try:
            return cls(Word(word), tag, nbytes)
        except ValueError:
            raise TransportError(f"the peer said {word}, which is no word of ours") from None


@dataclass(frozen=True, slots=True)
class _Posted(Generic[T]):
    tag: int
    nbytes: int
    transfer: T


class Turns(Generic[T]):
    """One end's transfers until they begin. `T` is whatever the end knows a transfer by."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._sends: deque[_Posted[T]] = deque()
        self._receives: deque[_Posted[T]] = deque()
        self._their_sends: deque[Note] = deque()
        self._their_receives: deque[Note] = deque()

    def post(self, sends: bool, tag: int, nbytes: int, transfer: T) -> list[Note]:
        """Post a transfer. Returns what to say to the peer."""
        (self._sends if sends else self._receives).append(_Posted(tag, nbytes, transfer))
        if self._rank == SOURCE:
            return []
        return [Note(Word.SENDS if sends else Word.RECEIVES, tag, nbytes)]

    def hear(self, note: Note) -> T | None:
        """Take what the peer said. Returns the transfer to begin now, if it calls one. Raises
        `TransportError` when it contradicts this end."""
        expected = (
            (Word.SENDS, Word.RECEIVES)
            if self._rank == SOURCE
            else (Word.CALL_REPLICA, Word.CALL_SOURCE)
        )
        if note.word not in expected:
            raise TransportError(f"{note.word.name} is not for the {RANKS[peer_of(self._rank)]}")
        if self._rank == REPLICA:
            sends = note.word is Word.CALL_REPLICA
            mine = self._sends if sends else self._receives
            if not mine:
                raise TransportError("the source calls a transfer that was not posted")
            return _agreed(mine.popleft(), note)
        theirs = self._their_sends if note.word is Word.SENDS else self._their_receives
        if len(theirs) >= MAX_WAITING:
            raise TransportError(f"the replica has posted over {MAX_WAITING} transfers")
        theirs.append(note)
        return None

    def calls(self) -> Iterator[tuple[Note, T]]:
        """The transfers that both ends have posted: what to say, and what to begin, in turn. Only
        the source calls. Raises `TransportError` when the ends do not agree on one."""
        if self._rank == REPLICA:
            return
        for word, mine, theirs in (
            (Word.CALL_SOURCE, self._sends, self._their_receives),
            (Word.CALL_REPLICA, self._receives, self._their_sends),
        ):
            while mine and theirs:
                posted = mine.popleft()
                transfer = _agreed(posted, theirs.popleft())
                yield Note(word, posted.tag, posted.nbytes), transfer


def _agreed(mine: _Posted[T], theirs: Note) -> T:
    if (mine.tag, mine.nbytes) != (theirs.tag, theirs.nbytes):
        raise TransportError(
            f"{mine.nbytes} bytes with tag {mine.tag} are next at this end, and {theirs.nbytes} "
            f"with tag {theirs.tag} at the other"
        )
    return mine.transfer
