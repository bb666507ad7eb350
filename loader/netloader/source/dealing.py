"""How a source that has everything spreads it among replicas that serve each other.

Carries out what `policy/super_seeding.py` decides, over the sessions of one source. A replica that
does not read is told later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from netloader.protocol import messages
from netloader.source.offer import Promised
from netloader.source.policy.super_seeding import OfferChange, SuperSeeding
from netloader.source.session import Session


class Dealer:
    """What each replica has on offer. Belongs to the source's thread."""

    def __init__(self, say: Callable[[str, messages.Have], bool]) -> None:
        """`say` sends a message to the replica of a session; False if that must wait."""
        self._say = say
        self._promised: Promised | None = None
        self._seeding: SuperSeeding | None = None
        self._sessions: set[str] = set()
        self._unsaid: dict[str, OfferChange] = {}

    def open(self, session: Session, has: Iterable[int]) -> tuple[int, ...]:
        """Deal to one more replica. Returns the chunks that its acceptance shall name."""
        if self._seeding is None or self._promised is not session.promised:
            # Sessions of an earlier offer have everything on offer that they will get.
            self._sessions.clear()
            self._unsaid.clear()
            count = session.chunks
            self._promised, self._seeding = session.promised, SuperSeeding(count, range(count))
        self._sessions.add(session.id)
        self._seeding.join(session.id, has)
        self._note()
        first = self._unsaid.pop(session.id, OfferChange())
        self.tell()
        return first.offered

    def has(self, session: Session, chunks: Iterable[int]) -> None:
        """A replica has these chunks, or asks for them."""
        if self._seeding is not None and session.id in self._sessions:
            self._seeding.has(session.id, chunks)
            self._note()
            self.tell()

    def leave(self, session: Session) -> None:
        """A session is over."""
        if self._seeding is not None and session.id in self._sessions:
            self._sessions.remove(session.id)
            self._unsaid.pop(session.id, None)
            self._seeding.leave(session.id, session.sent)
            self._note()
            self.tell()

    def tell(self) -> None:
        """Say what could not be said yet."""
        for name, change in list(self._unsaid.items()):
            have = messages.Have(session=name, chunks=change.offered, gone=change.retracted)
            if self._say(name, have):
                del self._unsaid[name]

    def _note(self) -> None:
        assert self._seeding is not None, "something was dealt"
        for name, change in self._seeding.changes().items():
            before = self._unsaid.get(name, OfferChange())
            offered = set(before.offered).difference(change.retracted).union(change.offered)
            gone = set(before.retracted).difference(change.offered).union(change.retracted)
            self._unsaid[name] = OfferChange(tuple(sorted(offered)), tuple(sorted(gone)))
