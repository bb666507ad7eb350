"""Who has a place at a source, who is about to leave, and who has to make room.

A session holds its place until the source has read or sent word that it is over. Its thread may
need longer, so the number of ending sessions is bounded too. Bookkeeping over values: no socket, no
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from netloader.source.policy.eviction import Usage, waste
from netloader.source.settings import SourceSettings


class Occupant(Protocol):
    """What the registry needs to know about a session."""

    @property
    def id(self) -> str: ...

    def usage(self) -> Usage:
        """What the session has done with its place until now."""


S = TypeVar("S", bound=Occupant)
C = TypeVar("C")


@dataclass
class ServedSession(Generic[S, C]):
    """A session, with the connection that may speak for it."""

    session: S
    caller: C
    seen: Usage
    """Usage of the session when it was last judged."""


class Sessions(Generic[S, C]):
    """The places of one source. Belongs to the source's thread."""

    def __init__(self, settings: SourceSettings) -> None:
        self._settings = settings
        self._served: dict[str, ServedSession[S, C]] = {}
        self._ending: dict[str, S] = {}

    def __len__(self) -> int:
        """The number of replicas being served. Sessions that are ending do not count."""
        return len(self._served)

    @property
    def served(self) -> list[ServedSession[S, C]]:
        """All sessions that have a place, earliest first."""
        return list(self._served.values())

    @property
    def ending(self) -> list[S]:
        """Sessions that are over for their replicas, which are told nothing more, but whose threads
        have not ended."""
        return list(self._ending.values())

    def full(self) -> str | None:
        """Why no further replica can be served now; None when one can."""
        if len(self._served) >= self._settings.max_sessions:
            return f"all {self._settings.max_sessions} sessions are taken"
        if len(self._ending) >= self._settings.max_ending:
            return f"{len(self._ending)} sessions are still ending"
        return None

    def add(self, session: S, caller: C) -> None:
        """Give a session a place."""
        self._served[session.id] = ServedSession(session, caller, session.usage())

    def find(self, session_id: str, caller: C) -> ServedSession[S, C] | None:
        """The session, if this connection opened it; nobody else may speak for it."""
        found = self._served.get(session_id)
        return found if found is not None and found.caller == caller else None

    def get(self, session_id: str) -> ServedSession[S, C] | None:
        """A session that has a place."""
        return self._served.get(session_id)

    def release(self, session_id: str) -> ServedSession[S, C] | None:
        """Free the place of a session that is over, before its thread has noticed. None when the
        session has no place (any more)."""
        found = self._served.pop(session_id, None)
        if found is not None:
            self._ending[session_id] = found.session
        return found

    def remove(self, session_id: str) -> None:
        """Forget a released session whose thread has ended."""
        del self._ending[session_id]

    def wasteful(self) -> tuple[ServedSession[S, C], str] | None:
        """The first session that wastes its place, and why it should make room.

        Also None while a place is free. A session is judged by what it did since it was last
        judged, after `eviction_period_s` at the earliest.
        """
        if len(self._served) < self._settings.max_sessions:
            return None
        period_s = self._settings.eviction_period_s or self._settings.timeout_s
        for one in self._served.values():
            now = one.session.usage()
            reason = waste(one.seen, now, period_s)
            if reason is not None:
                return one, reason
            if now.at - one.seen.at >= period_s:
                one.seen = now
        return None
