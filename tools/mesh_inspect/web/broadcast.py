"""Hands what happens to everybody who watches. Used by one thread, that of the event loop.

The latest events are kept once for all. A reader is a place among them, so a slow one costs
nothing; one that falls behind what is kept gets a new document.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mesh_inspect.view.changes import Happening
from mesh_inspect.web.events import GZIP_HEAD, KEEP_ALIVE, RETRY, Event, deflated
from mesh_inspect.web.picture import MeshPicture, PictureChange
from mesh_inspect.web.settings import WebSettings


class TooManyReaders(Exception):
    """Nobody else can watch now."""


class Broadcast:
    """The readers, and what they are told."""

    def __init__(self, mesh: str, settings: WebSettings) -> None:
        self.mesh = mesh
        self.picture: MeshPicture | None = None
        """None until the first look."""
        self.replay: Callable[[], object] = lambda: None
        """The state of a replay for the document; None without one."""
        self.happened: deque[Happening] = deque(maxlen=settings.happenings)
        self._settings = settings
        self._name: Final = secrets.token_hex(4)
        """Tells the numbers of this server from those of one before it."""
        self._events: deque[Event] = deque()
        self._kept_bytes = 0
        self._last = 0
        """Number of the latest event."""
        self._document: Event | None = None
        self._readers: set[EventReader] = set()
        self.closed = False

    @property
    def readers(self) -> int:
        """How many watch."""
        return len(self._readers)

    def show(self, picture: MeshPicture, difference: PictureChange) -> None:
        """A look is over. The first one has no difference from anything."""
        before, self.picture = self.picture, picture
        self._document = None
        if before is None:
            self._wake()
            return
        at = picture.at
        if picture.silence != before.silence:
            self.tell("silence", {"at": at, "text": picture.silence})
        if difference.changed or difference.gone:
            self.tell("change", {"at": at, "changed": difference.changed, "gone": difference.gone})
        for one in difference.happened:
            self.happened.append(one)
            self.tell("happened", one.document())

    def jump(self, picture: MeshPicture) -> None:
        """Everybody gets a new document: the time is another one."""
        self.picture = picture
        self._document = None
        self._events.clear()
        self._kept_bytes = 0
        self._last += 1  # Nobody is where the stream goes on.
        self._wake()

    def tell(self, name: str, value: object) -> None:
        """One more event."""
        self._last += 1
        self._document = None
        event = Event(name, value, self._number(self._last))
        self._events.append(event)
        self._kept_bytes += len(event.plain)
        settings = self._settings
        while len(self._events) > settings.backlog or self._kept_bytes > settings.backlog_bytes:
            self._kept_bytes -= len(self._events.popleft().plain)
        self._wake()

    def close(self) -> None:
        """End all streams."""
        self.closed = True
        self._wake()

    @contextmanager
    def reader(self, last: str | None) -> Iterator[EventReader]:
        """One who watches, and has seen the event `last`, if it says so. Raises
        `TooManyReaders`."""
        if self.closed or len(self._readers) >= self._settings.readers:
            raise TooManyReaders
        reader = EventReader(self, self._seen(last), self._settings.keep_alive_s)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def after(self, seen: int | None) -> tuple[Event, int] | None:
        """What a reader gets that has everything up to the event `seen`, and the number of what it
        has then; None when there is nothing new."""
        if self.picture is None or seen == self._last:
            return None
        behind = 0 if seen is None else self._last - seen
        if seen is not None and 0 < behind <= len(self._events):
            return self._events[-behind], seen + 1
        if self._document is None:
            document = self.picture.document(self.mesh, self.replay())
            self._document = Event("mesh", document, self._number(self._last))
        return self._document, self._last

    def _number(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _seen(self, last: str | None) -> int | None:
        """The number in what a reader says; None if this server never said it."""
        name, _, number = (last or "").partition("-")
        if name != self._name or not number.isdecimal() or len(number) > 18:
            return None
        return int(number) if int(number) <= self._last else None

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()


class EventReader:
    """One stream: a place among the events."""

    def __init__(self, broadcast: Broadcast, seen: int | None, keep_alive_s: float) -> None:
        self._broadcast = broadcast
        self._seen = seen
        self._keep_alive_s = keep_alive_s
        self._news = asyncio.Event()
        self._news.set()

    def wake(self) -> None:
        """There is something new, or the end."""
        self._news.set()

    async def parts(self, *, compressed: bool) -> AsyncIterator[bytes]:
        """The stream, until the broadcast ends."""
        yield GZIP_HEAD + deflated(RETRY) if compressed else RETRY
        while True:
            try:
                await asyncio.wait_for(self._news.wait(), self._keep_alive_s)
            except TimeoutError:
                yield deflated(KEEP_ALIVE) if compressed else KEEP_ALIVE
                continue
            self._news.clear()
            while (following := self._broadcast.after(self._seen)) is not None:
                event, self._seen = following
                yield event.deflated if compressed else event.plain
                # A browser that has gone is noticed between two events. Without this pause all
                # that waits would be written to its broken connection, with a warning for each.
                await asyncio.sleep(0)
            if self._broadcast.closed:
                return
