"""Look at a mesh, or bury a dead member, without becoming part of it."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeAlias, TypeVar

import zmq

from netmesh.address import Address, numeric_address
from netmesh.bootstrap.finder import Finder
from netmesh.bootstrap.sources import Bootstrap
from netmesh.core.claims import Claim
from netmesh.core.member import Member
from netmesh.core.messages import NOBODY, Busy, Forget, Forgotten, Message, Observe, State
from netmesh.core.records import Generation, MemberId, Status, started_ms, unpack_advert
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

ASK_AGAIN_S = 0.5
"""Pause before a silent contact is asked again: a closing connection may have lost the message."""


def observe(
    settings: MeshSettings, timeout_s: float = 3.0, *, seeds_only: bool = False
) -> tuple[Member, ...]:
    """The member table as some member sees it now, found the way a member finds the others.

    Changes neither the mesh nor this host: the same-host directory is read, not made or swept.
    With `seeds_only` the same-host directory is not asked, for callers that want the answer of a
    seed and not that of a member on this host. Blocks up to `timeout_s`. Raises SettingsError, and
    NoMeshError when nobody answers.
    """
    log = logging.getLogger("netmesh")
    return _consult(settings, _Census, timeout_s, log, seeds_only=seeds_only)


def forget(
    settings: MeshSettings, member: MemberId, timeout_s: float = 3.0, *, seeds_only: bool = False
) -> Status | None:
    """Tell the mesh that a dead member will not come back; returns how the member stands now.

    LEFT: it is forgotten, and nobody connects to it any more. Any other status: the member that
    answered does not hold it for dead, so nothing was changed. None: nobody of that name is known
    there. Blocks and raises as `observe` does.
    """
    if numeric_address(member) is None:
        raise SettingsError("member", member, "use HOST:PORT, with an address as members show it")
    log = logging.getLogger("netmesh")
    said = _consult(settings, lambda: _Obituary(member), timeout_s, log, seeds_only=seeds_only)
    return said.status


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


def _consult(
    settings: MeshSettings,
    dialogue: Callable[[], _Dialogue[_Said]],
    timeout_s: float,
    log: logging.Logger,
    *,
    seeds_only: bool,
) -> _Said:
    """The first whole answer of any contact."""
    security = SocketSecurity.from_settings(settings)
    allowed = security.enabled or settings.insecure
    bootstrap = Bootstrap.of(settings, os.environ, log, remote_allowed=allowed)
    found: queue.SimpleQueue[tuple[Address, ...]] = queue.SimpleQueue()
    sources = bootstrap.sources(announce=None, on_this_host=not seeds_only)
    finder = Finder(sources, found.put, bootstrap.accepts, log)
    finder.start()
    asking = _Asking(Codec(settings.name), security, log, dialogue)
    try:
        return asking.run(found, settings, timeout_s)
    finally:
        finder.stop()
        asking.close()


_Place: TypeAlias = tuple[Address, int]
"""A contact, and which of our keys it is asked with."""


class _Question(Generic[_Said]):
    """One contact that is being asked."""

    def __init__(self, socket: zmq.Socket[bytes], dialogue: _Dialogue[_Said], now: float) -> None:
        self.socket = socket
        self.dialogue = dialogue
        self.again_at = now
        self.give_up_at = now + PATIENCE_S


class _Asking(Generic[_Said]):
    """The sockets of one observation."""

    def __init__(
        self,
        codec: Codec,
        security: SocketSecurity,
        log: logging.Logger,
        dialogue: Callable[[], _Dialogue[_Said]],
    ) -> None:
        self._codec = codec
        self._security = security
        self._dialogue = dialogue
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._reactor = Reactor(Counter(), log)
        self._questions: dict[_Place, _Question[_Said]] = {}
        self._waiting: deque[_Place] = deque()
        """Contacts to ask next. One that was silent goes to the end."""
        self._known: dict[Address, None] = {}
        self._problem: MeshError | None = None

    def run(
        self,
        found: queue.SimpleQueue[tuple[Address, ...]],
        settings: MeshSettings,
        timeout_s: float,
    ) -> _Said:
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            if now >= deadline:
                # Seeds that did not even resolve were tried, too.
                tried = tuple(map(str, self._known)) or settings.seeds
                raise NoMeshError(settings.name, tried, timeout_s) from self._problem
            while not found.empty():
                for address in found.get():
                    self._add(address)
            self._rotate(now)
            for question in list(self._questions.values()):
                if (answer := question.dialogue.result()) is not None:
                    return answer
                if now >= question.again_at:
                    self._ask(question, now)
            self._reactor.poll(min(0.02, deadline - now))

    def close(self) -> None:
        for question in self._questions.values():
            question.socket.close(linger=0)
        self._context.term()

    def _add(self, address: Address) -> None:
        if address in self._known:
            return
        self._known[address] = None
        # During a rotation members serve with different keys, so ask with each of ours.
        self._waiting.extend((address, ring) for ring in range(max(1, len(self._security.rings))))

    def _rotate(self, now: float) -> None:
        """Ask the next contacts, in place of those that were silent."""
        for place, question in list(self._questions.items()):
            if not self._waiting:
                return
            if now >= question.give_up_at:
                del self._questions[place]
                self._reactor.remove(question.socket)
                question.socket.close(linger=0)
                self._waiting.append(place)
            if len(self._questions) < ASK_AT_ONCE:
                self._open(self._waiting.popleft(), now)
        while self._waiting and len(self._questions) < ASK_AT_ONCE:
            self._open(self._waiting.popleft(), now)

    def _open(self, place: _Place, now: float) -> None:
        address, ring = place
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        harden(socket)
        socket.setsockopt(zmq.IPV6, int(address.is_v6))
        self._security.apply_client(socket, ring)
        socket.connect(f"tcp://{address}")
        question = _Question(socket, self._dialogue(), now)
        self._questions[place] = question
        self._reactor.add(socket, lambda: self._receive(question))

    def _ask(self, question: _Question[_Said], now: float) -> None:
        question.again_at = now + ASK_AGAIN_S
        message = question.dialogue.question()
        try:
            question.socket.send_multipart(list(self._codec.encode(message)), zmq.DONTWAIT)
        except zmq.Again:
            return  # it never connected, and its queue is full of this question

    def _receive(self, question: _Question[_Said]) -> None:
        try:
            message: Message = self._codec.decode(question.socket.recv_multipart(zmq.DONTWAIT))
        except RemoteProtocolError as error:
            self._problem = error  # if nobody answers, the likely reason: another version
            return
        now = time.monotonic()
        question.give_up_at = now + PATIENCE_S
        if isinstance(message, Busy):
            question.again_at = now + message.retry_after_ms / 1000
            question.give_up_at = question.again_at + PATIENCE_S
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
            {} if claim.advert is None else unpack_advert(claim.advert),
            max(0.0, (now_ms - started_ms(claim.generation)) / 1000),
        )
        for claim in sorted(claims, key=lambda claim: claim.id)
    )
