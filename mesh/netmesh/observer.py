"""Look at a mesh without becoming part of it."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections import Counter
from collections.abc import Iterable

import zmq

from netmesh.address import Address
from netmesh.bootstrap.finder import Finder
from netmesh.bootstrap.sources import Bootstrap
from netmesh.core.claims import Claim
from netmesh.core.member import Member
from netmesh.core.messages import NOBODY, Busy, Message, Observe, State
from netmesh.core.records import Generation, MemberId, started_ms, unpack_advert
from netmesh.core.wire import Codec
from netmesh.errors import MeshError, NoMeshError, RemoteProtocolError
from netmesh.io.links import harden
from netmesh.io.reactor import Reactor
from netmesh.io.security import SocketSecurity
from netmesh.settings import MeshSettings

ASK_AT_ONCE = 16
"""Contacts asked in parallel; the first whole answer wins."""

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
    security = SocketSecurity.from_settings(settings)
    allowed = security.enabled or settings.insecure
    bootstrap = Bootstrap.of(settings, os.environ, log, remote_allowed=allowed)
    found: queue.SimpleQueue[tuple[Address, ...]] = queue.SimpleQueue()
    sources = bootstrap.sources(announce=None, on_this_host=not seeds_only)
    finder = Finder(sources, found.put, bootstrap.accepts, log)
    finder.start()
    asking = _Asking(Codec(settings.name), security, log)
    try:
        return asking.run(found, settings, timeout_s)
    finally:
        finder.stop()
        asking.close()


class _Question:
    """One contact, asked with one key, and how much of its answer has arrived."""

    def __init__(self, socket: zmq.Socket[bytes], now: float) -> None:
        self.socket = socket
        self.cursor = 0
        self.again_at = now
        self.claims: dict[MemberId, Claim] = {}


class _Asking:
    """The sockets of one observation."""

    def __init__(self, codec: Codec, security: SocketSecurity, log: logging.Logger) -> None:
        self._codec = codec
        self._security = security
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._reactor = Reactor(Counter(), log)
        self._questions: dict[tuple[Address, int], _Question] = {}
        self._answer: tuple[Member, ...] | None = None
        self._problem: MeshError | None = None

    def run(
        self,
        found: queue.SimpleQueue[tuple[Address, ...]],
        settings: MeshSettings,
        timeout_s: float,
    ) -> tuple[Member, ...]:
        deadline = time.monotonic() + timeout_s
        while self._answer is None:
            now = time.monotonic()
            if now >= deadline:
                tried = tuple(str(address) for address, ring in self._questions if ring == 0)
                # Seeds that did not even resolve were tried, too.
                tried = tried or settings.seeds
                raise NoMeshError(settings.name, tried, timeout_s) from self._problem
            while not found.empty():
                for address in found.get():
                    self._add(address, now)
            for question in self._questions.values():
                if now >= question.again_at:
                    self._ask(question, now)
            self._reactor.poll(min(0.02, deadline - now))
        return self._answer

    def close(self) -> None:
        for question in self._questions.values():
            question.socket.close(linger=0)
        self._context.term()

    def _add(self, address: Address, now: float) -> None:
        # During a rotation members serve with different keys, so ask with each of ours.
        for ring in range(max(1, len(self._security.rings))):
            if (address, ring) in self._questions or len(self._questions) >= ASK_AT_ONCE:
                continue
            socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            harden(socket)
            socket.setsockopt(zmq.IPV6, int(address.is_v6))
            self._security.apply_client(socket, ring)
            socket.connect(f"tcp://{address}")
            question = _Question(socket, now)
            self._questions[address, ring] = question
            self._reactor.add(socket, lambda question=question: self._receive(question))  # type: ignore[misc]

    def _ask(self, question: _Question, now: float) -> None:
        question.again_at = now + ASK_AGAIN_S
        message = Observe(NOBODY, Generation(0), question.cursor)
        try:
            question.socket.send_multipart(list(self._codec.encode(message)), zmq.DONTWAIT)
        except zmq.Again:
            return  # it never connected, and its queue is full of this question

    def _receive(self, question: _Question) -> None:
        try:
            message: Message = self._codec.decode(question.socket.recv_multipart(zmq.DONTWAIT))
        except RemoteProtocolError as error:
            self._problem = error  # if nobody answers, the likely reason: another version
            return
        now = time.monotonic()
        if isinstance(message, Busy):
            question.again_at = now + message.retry_after_ms / 1000
        elif isinstance(message, State):
            for claim in message.claims:
                known = question.claims.get(claim.id)
                if known is None or claim.order >= known.order:
                    question.claims[claim.id] = claim
            if message.cursor is None:
                self._answer = _members(question.claims.values())
            elif message.cursor > question.cursor:  # else the answer to an earlier question
                question.cursor = message.cursor
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
