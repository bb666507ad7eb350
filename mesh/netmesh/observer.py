"""Look at a mesh, or bury a dead member, without becoming part of it."""

from __future__ import annotations

import logging
import os
import queue
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Protocol, Self, TypeAlias, TypeVar

import zmq

from netmesh.address import Address, numeric_address
from netmesh.bootstrap.finder import Finder
from netmesh.bootstrap.sources import Bootstrap
from netmesh.core.claims import Claim
from netmesh.core.member import Member, read_advert
from netmesh.core.messages import NOBODY, Busy, Forget, Forgotten, Message, Observe, State
from netmesh.core.records import Generation, MemberId, Status, started_ms
from netmesh.core.wire import Codec
from netmesh.errors import MeshError, NoMeshError, RemoteProtocolError, SettingsError
from netmesh.io.links import harden
from netmesh.io.reactor import Reactor
from netmesh.io.security import SocketSecurity
from netmesh.settings import MeshSettings

ASK_AT_ONCE = 16
"""Contacts asked in parallel; the first whole answer wins."""

PATIENCE_S = 1.0
"""A contact that is silent for this long makes room for one that waits, and is asked again after
it."""

POLL_S = 0.02
"""How long new contacts wait for the thread that looks for them."""

ASK_AGAIN_S = 0.5
"""Pause before a silent contact is asked again: a closing connection may have lost the message."""


def observe(
    settings: MeshSettings, timeout_s: float = 3.0, *, seeds_only: bool = False
) -> tuple[Member, ...]:
    """The member table as some member sees it now: one look of an `Observer`."""
    with Observer(settings, seeds_only=seeds_only) as observer:
        return observer.look(timeout_s)


def forget(
    settings: MeshSettings, member: MemberId, timeout_s: float = 3.0, *, seeds_only: bool = False
) -> Status | None:
    """Tell the mesh that a dead member will not come back, as `Observer.forget` does."""
    with Observer(settings, seeds_only=seeds_only) as observer:
        return observer.forget(member, timeout_s)


_Said = TypeVar("_Said", covariant=True)


class _Dialogue(Protocol[_Said]):
    """What is asked of one contact, and how much of its answer has arrived."""

    def question(self) -> Message:
        """What to say next; said again until there is an answer."""
        ...

    def hear(self, message: Message) -> bool:
        """Take in an answer; True when another question follows at once."""
        ...

    def result(self) -> _Said | None:
        """The answer, once it is whole."""
        ...


class _Census:
    """Asks for the table, page by page."""

    def __init__(self) -> None:
        self._cursor: int | None = 0
        self._claims: dict[MemberId, Claim] = {}

    def question(self) -> Message:
        return Observe(NOBODY, Generation(0), self._cursor or 0)

    def hear(self, message: Message) -> bool:
        if not isinstance(message, State) or self._cursor is None:
            return False
        for claim in message.claims:
            known = self._claims.get(claim.id)
            if known is None or claim.order >= known.order:
                self._claims[claim.id] = claim
        if message.cursor is not None and message.cursor <= self._cursor:
            return False  # the answer to an earlier question
        self._cursor = message.cursor
        return self._cursor is not None

    def result(self) -> tuple[Member, ...] | None:
        return None if self._cursor is not None else _members(self._claims.values())


class _Obituary:
    """Says that a member is gone for good."""

    def __init__(self, member: MemberId) -> None:
        self._member = member
        self._said: Forgotten | None = None

    def question(self) -> Message:
        return Forget(NOBODY, Generation(0), self._member)

    def hear(self, message: Message) -> bool:
        if isinstance(message, Forgotten) and message.member == self._member:
            self._said = message
        return False

    def result(self) -> Forgotten | None:
        return self._said


class Observer:
    """Looks at a mesh, again and again: at the table of the member that answered last.

    Contacts are found the way a member finds the others. Once one has answered, its connection is
    kept, and each further look costs it one answer and nobody else anything. Where it is silent or
    refuses, all contacts are asked again, the members seen last among them.

    Changes neither the mesh nor this host: the same-host directory is read, not made or swept.
    With `seeds_only` nobody but the seeds is asked, for callers that want the answer of a seed and
    not that of another member. Not for two threads at once; to be closed.
    """

    def __init__(self, settings: MeshSettings, *, seeds_only: bool = False) -> None:
        """Raises SettingsError."""
        self._settings = settings
        self._seeds_only = seeds_only
        self._log = logging.getLogger("netmesh")
        self._seen: tuple[MemberId, ...] = ()
        """Who was alive in the last look."""
        self._bootstrap = self._new_bootstrap(SocketSecurity.from_settings(settings))
        self._asking = _Asking(Codec(settings.name), self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        self._asking.close()

    @property
    def answered_by(self) -> str:
        """The contact that answered last, as `host:port`; empty where it is silent now."""
        return self._asking.kept

    def look(self, timeout_s: float = 3.0) -> tuple[Member, ...]:
        """The member table as some member sees it now, in the order of ids.

        Members whose advert did not change share its object from look to look. Blocks up to
        `timeout_s`. Raises NoMeshError when nobody answers, and SettingsError for a key file that
        cannot be read any more. The next look is as good as the first.
        """
        members = self._consult(_Census, timeout_s)
        self._seen = tuple(member.id for member in members if member.selectable)
        return members

    def forget(self, member: MemberId, timeout_s: float = 3.0) -> Status | None:
        """Tell the mesh that a dead member will not come back; returns how the member stands now.

        LEFT: it is forgotten, and nobody connects to it any more. Any other status: the member that
        answered does not hold it for dead, so nothing was changed. None: nobody of that name is
        known there. Blocks and raises as `look` does.
        """
        if numeric_address(member) is None:
            allowed = "use HOST:PORT, with an address as members show it"
            raise SettingsError("member", member, allowed)
        return self._consult(lambda: _Obituary(member), timeout_s).status

    def _new_bootstrap(self, security: SocketSecurity) -> Bootstrap:
        allowed = security.enabled or self._settings.insecure
        return Bootstrap.of(self._settings, os.environ, self._log, remote_allowed=allowed)

    def _consult(self, dialogue: Callable[[], _Dialogue[_Said]], timeout_s: float) -> _Said:
        """The answer of the contact that is kept, else the first whole answer of any."""
        deadline = time.monotonic() + timeout_s
        said = self._asking.again(dialogue, deadline)
        if said is None:
            said = self._search(dialogue, deadline)
        if said is None:
            # Seeds that did not even resolve were tried, too.
            tried = self._asking.tried or self._settings.seeds
            raise NoMeshError(self._settings.name, tried, timeout_s) from self._asking.problem
        return said

    def _search(self, dialogue: Callable[[], _Dialogue[_Said]], deadline: float) -> _Said | None:
        found: queue.SimpleQueue[tuple[Address, ...]] = queue.SimpleQueue()
        # The keys of a mesh change while somebody watches it.
        security = SocketSecurity.from_settings(self._settings)
        sources = self._bootstrap.sources(announce=None, on_this_host=not self._seeds_only)
        finder = Finder(sources, found.put, self._bootstrap.accepts, self._log)
        if not self._seeds_only:
            seen = random.sample(self._seen, min(len(self._seen), ASK_AT_ONCE))
            known = [address for one in seen if (address := numeric_address(one)) is not None]
            found.put(tuple(filter(self._bootstrap.accepts, known)))
        finder.start()
        try:
            return self._asking.search(found, security, dialogue, deadline)
        finally:
            finder.stop()


_Place: TypeAlias = tuple[Address, int]
"""A contact, and which of our keys it is asked with."""


class _Question:
    """One contact that is being asked."""

    def __init__(self, socket: zmq.Socket[bytes], dialogue: _Dialogue[object], now: float) -> None:
        self.socket = socket
        self.begin(dialogue, now)

    def begin(self, dialogue: _Dialogue[object], now: float) -> None:
        self.dialogue = dialogue
        self.again_at = now
        self.give_up_at = now + PATIENCE_S
        self.refused = False
        """Whether there is an answer that is none: it has no room, or speaks another protocol."""


class _Asking:
    """The sockets of an observer. `search` asks all contacts, and keeps the one that answered for
    `again`."""

    def __init__(self, codec: Codec, log: logging.Logger) -> None:
        self._codec = codec
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._reactor = Reactor(Counter(), log)
        self._questions: dict[_Place, _Question] = {}
        """Between two searches only the contact that is kept, if any."""
        self._waiting: deque[_Place] = deque()
        """Contacts to ask next. One that was silent goes to the end."""
        self._known: dict[Address, None] = {}
        self.problem: MeshError | None = None
        """Why nobody answered, as far as somebody told."""

    @property
    def kept(self) -> str:
        """The contact that is kept; empty: there is none."""
        return next((str(address) for address, _ in self._questions), "")

    @property
    def tried(self) -> tuple[str, ...]:
        """The contacts of the last search."""
        return tuple(map(str, self._known))

    def again(self, dialogue: Callable[[], _Dialogue[_Said]], deadline: float) -> _Said | None:
        """The answer of the contact that answered last; None where it does not answer."""
        for place, question in list(self._questions.items()):
            now = time.monotonic()
            asked = dialogue()
            self._drain(question)
            question.begin(asked, now)
            while now < min(deadline, question.give_up_at) and not question.refused:
                if (answer := asked.result()) is not None:
                    return answer
                if now >= question.again_at:
                    self._ask(question, now)
                self._reactor.poll(min(POLL_S, deadline - now))
                now = time.monotonic()
            if (answer := asked.result()) is not None:
                return answer
            self._drop(place)
        return None

    def search(
        self,
        found: queue.SimpleQueue[tuple[Address, ...]],
        security: SocketSecurity,
        dialogue: Callable[[], _Dialogue[_Said]],
        deadline: float,
    ) -> _Said | None:
        """The first whole answer of any contact; None where nobody answers."""
        self._known.clear()
        self.problem = None
        dialogues: dict[_Place, _Dialogue[_Said]] = {}

        try:
            while (now := time.monotonic()) < deadline:
                while not found.empty():
                    for address in found.get():
                        self._add(address, len(security.rings))
                self._rotate(now)
                while self._waiting and len(self._questions) < ASK_AT_ONCE:
                    place = self._waiting.popleft()
                    dialogues[place] = dialogue()
                    self._open(place, security, dialogues[place], now)
                for place, question in list(self._questions.items()):
                    if (answer := dialogues[place].result()) is not None:
                        self._keep(place)
                        return answer
                    if now >= question.again_at:
                        self._ask(question, now)
                self._reactor.poll(min(POLL_S, deadline - now))
        finally:
            self._waiting.clear()
        self._keep(None)
        return None

    def close(self) -> None:
        self._keep(None)
        self._context.term()

    def _keep(self, chosen: _Place | None) -> None:
        for place in list(self._questions):
            if place != chosen:
                self._drop(place)

    def _drop(self, place: _Place) -> None:
        question = self._questions.pop(place)
        self._reactor.remove(question.socket)
        question.socket.close(linger=0)

    def _add(self, address: Address, rings: int) -> None:
        if address in self._known:
            return
        self._known[address] = None
        # During a rotation members serve with different keys, so ask with each of ours.
        self._waiting.extend((address, ring) for ring in range(max(1, rings)))

    def _rotate(self, now: float) -> None:
        """Make room for the next contacts, in place of those that were silent."""
        waiting = len(self._waiting)
        for place, question in list(self._questions.items()):
            free = ASK_AT_ONCE - len(self._questions)
            if waiting <= free:
                return
            if now >= question.give_up_at:
                self._drop(place)
                self._waiting.append(place)

    def _open(
        self, place: _Place, security: SocketSecurity, dialogue: _Dialogue[object], now: float
    ) -> None:
        address, ring = place
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        harden(socket)
        socket.setsockopt(zmq.IPV6, int(address.is_v6))
        security.apply_client(socket, ring)
        socket.connect(f"tcp://{address}")
        question = _Question(socket, dialogue, now)
        self._questions[place] = question
        self._reactor.add(socket, lambda: self._receive(question))

    def _ask(self, question: _Question, now: float) -> None:
        question.again_at = now + ASK_AGAIN_S
        message = question.dialogue.question()
        try:
            question.socket.send_multipart(list(self._codec.encode(message)), zmq.DONTWAIT)
        except zmq.Again:
            return  # it never connected, and its queue is full of this question

    def _drain(self, question: _Question) -> None:
        """Forget answers to what was asked twice before."""
        try:
            while True:
                question.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return

    def _receive(self, question: _Question) -> None:
        try:
            message: Message = self._codec.decode(question.socket.recv_multipart(zmq.DONTWAIT))
        except RemoteProtocolError as error:
            self.problem = error  # if nobody answers, the likely reason: another version
            question.refused = True
            return
        now = time.monotonic()
        question.give_up_at = now + PATIENCE_S
        if isinstance(message, Busy):
            question.again_at = now + message.retry_after_ms / 1000
            question.give_up_at = question.again_at + PATIENCE_S
            question.refused = True
        elif question.dialogue.hear(message):
            self._ask(question, now)


def _members(claims: Iterable[Claim]) -> tuple[Member, ...]:
    now_ms = time.time_ns() // 1_000_000
    return tuple(
        Member(
            claim.id,
            claim.generation,
            claim.incarnation,
            claim.status,
            claim.version,
            {} if claim.advert is None else read_advert(claim.advert),
            max(0.0, (now_ms - started_ms(claim.generation)) / 1000),
        )
        for claim in sorted(claims, key=lambda claim: claim.id)
    )
