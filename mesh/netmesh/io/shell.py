"""The thread between the sans-IO core and the network. It carries messages and decides nothing.

Events go into the core (messages, finished dials, broken links, time); effects come out, and the
shell carries them out. This one thread makes, uses and closes all ZeroMQ objects, in a context of
its own. Other threads leave their requests under a lock and wake it through an inproc pair.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import zmq

from netmesh.address import Address, numeric_address
from netmesh.core.effects import Departed, Dial, Displaced, Effect, Log, Reply, Send, Watch
from netmesh.core.events import (
    Connection,
    Contacts,
    Dialled,
    DialOutcome,
    Event,
    Leave,
    LinkLost,
    Publish,
    Received,
    Tick,
)
from netmesh.core.member import Member
from netmesh.core.messages import Message
from netmesh.core.reach import EVERYWHERE, Reach
from netmesh.core.records import JsonObject, MemberId
from netmesh.core.wire import PROTOCOL_VERSION
from netmesh.errors import BindError, RemoteProtocolError
from netmesh.io.dialler import Dialler
from netmesh.io.links import Links
from netmesh.io.reactor import Reactor
from netmesh.io.security import SocketSecurity
from netmesh.io.server import Server
from netmesh.ports import PortRange

FAREWELL_S = 0.3
"""How long the goodbyes of a graceful leave may take to go out after the core is done."""

ERROR_PAUSE_S = 0.05
"""A timer that raises is due again at once. Without a pause it would use a whole CPU core."""

REKEY_PAUSE_S = 1.0
"""Until a change of keys that failed (for lack of descriptors) is tried again."""

_WAKE = "inproc://wake"
_OWN_LINK = b"\x01"
"""First byte of the token of a message that came over one of our links. The core must answer such
a message with `Send`, not `Reply`. The ids that a ROUTER makes start with a zero byte."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Core(Protocol):
    """What the shell needs from `netmesh.core.engine.Engine`."""

    @property
    def revision(self) -> int: ...
    @property
    def joined(self) -> bool: ...
    def handle(self, event: Event, now: float) -> list[Effect]: ...
    def deadline(self) -> float: ...
    def members(self) -> tuple[Member, ...]: ...
    def live(self, member: MemberId) -> bool: ...


class Wire(Protocol):
    """What the shell needs from `netmesh.core.wire.Codec`."""

    def encode(self, message: Message) -> tuple[bytes, bytes]: ...
    def decode(self, frames: Sequence[bytes]) -> Message: ...
    def newest(self, frames: Sequence[bytes]) -> int: ...


class Shell:
    """Sockets and the thread that owns them. Call `bind`, then `start`, then `stop`."""

    def __init__(
        self,
        wire: Wire,
        security: SocketSecurity,
        log: logging.Logger,
        reach: Reach = EVERYWHERE,
    ) -> None:
        """Connects only to what is in `reach`."""
        self.counters: Counter[str] = Counter()
        """How often each thing happened. Operators watch `dropped.*` and `error.*`."""
        self.departed = threading.Event()
        """Set when the goodbyes of a graceful leave are sent."""
        self._wire = wire
        self._log = log
        self._core: Core | None = None
        self._changed: Callable[[tuple[Member, ...], bool], None] | None = None
        self._successor: Callable[[bool], Core | None] = lambda _: None
        self._reach = reach
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._reactor = Reactor(self.counters, log)
        self._dialler = Dialler(
            self._reactor, self._dialled, self.counters, time.monotonic, locate=self._locate
        )
        self._links = Links(
            self._context,
            self._reactor,
            security,
            self.counters,
            received=self._from_link,
            lost=self._lost,
            locate=self._locate,
            live=self._live,
        )
        self._server = Server(
            self._context, self._reactor, security, self.counters, self._from_outside, log
        )
        self._tick_after = 0.0
        self._shown: tuple[int, bool] | None = None
        self._show_after = 0.0
        self._lock = threading.Lock()
        self._advert: JsonObject | None = None
        self._contacts: deque[tuple[MemberId, ...]] = deque(maxlen=8)
        self._found: tuple[MemberId, ...] = ()
        self._new_keys: SocketSecurity | None = None
        self._wanted_keys: SocketSecurity | None = None
        self._rekey_due = float("inf")
        self._leaving = False
        self._stopping = False
        self._woken = False
        try:
            self._wake_in: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
            self._wake_in.bind(_WAKE)
            self._wake_out: zmq.Socket[bytes] | None = self._context.socket(zmq.PAIR)
            self._wake_out.connect(_WAKE)
        except zmq.ZMQError:  # no descriptor left
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._run, name="netmesh", daemon=True)

    def bind(
        self,
        host: str,
        port: int | None,
        well_known: Sequence[int] = (),
        ports: PortRange | None = None,
    ) -> int:
        """Listen (see `Server.listen`); returns the port. Raises BindError, and ZMQError for lack
        of descriptors."""
        try:
            return self._server.listen(host, port, well_known, ports)
        except (BindError, zmq.ZMQError, OSError):
            self.close_unstarted()
            raise

    def move(self, well_known: Sequence[int], ports: PortRange | None = None) -> int:
        """The shell's thread: leave the port for another one (see `Server.move`)."""
        return self._server.move(well_known, ports)

    def start(
        self,
        core: Core,
        changed: Callable[[tuple[Member, ...], bool], None],
        successor: Callable[[bool], Core | None] = lambda _: None,
    ) -> None:
        """Run `core` on the shell's thread; `changed` gets each new (members, joined) there.

        `successor` makes another member, there, when this one is displaced (see `Displaced`). None:
        it stays as it is.
        """
        self._core = core
        self._changed = changed
        self._successor = successor
        self._thread.start()

    def publish(self, advert: JsonObject) -> None:
        """Any thread: replace the advert. Only the latest one counts."""
        with self._lock:
            self._advert = advert
            self._wake()

    def contacts(self, members: tuple[MemberId, ...]) -> None:
        """Any thread: bootstrap found these."""
        with self._lock:
            if len(self._contacts) == self._contacts.maxlen:
                # The oldest is dropped; the next round brings it again.
                self.counters["dropped.contacts"] += 1
            self._contacts.append(members)
            self._wake()

    def rekey(self, security: SocketSecurity) -> None:
        """Any thread: use these keys from now on. Only for a shell that started with a key."""
        with self._lock:
            self._new_keys = security
            self._wake()

    def leave(self) -> None:
        """Any thread: say goodbye; `departed` is set when that is done."""
        with self._lock:
            self._leaving = True
            self._wake()

    def stop(self, timeout_s: float) -> bool:
        """Any thread: end the thread and close everything; False if that takes longer."""
        with self._lock:
            self._stopping = True
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close_unstarted(self) -> None:
        """Close a shell whose thread never ran."""
        self._close(0.0)

    def _wake(self) -> None:
        if self._wake_out is None or self._woken:
            return
        self._woken = True
        self._wake_out.send(b"", zmq.DONTWAIT)

    def _run(self) -> None:
        self._reactor.add(self._wake_in, self._woke)
        while not self._stopping:
            if not self._reactor.guard("loop", self._turn):
                self._tick_after = time.monotonic() + ERROR_PAUSE_S
                time.sleep(ERROR_PAUSE_S)
        self._close(FAREWELL_S if self.departed.is_set() else 0.0)

    def _turn(self) -> None:
        assert self._core is not None
        now = time.monotonic()
        due = max(self._core.deadline(), self._tick_after)
        wake = min(due, self._dialler.deadline(), self._show_due(now), self._rekey_due)
        self._reactor.poll(min(wake, self._server.due) - now)
        now = time.monotonic()
        if now >= self._rekey_due:
            self._rekey()
        self._server.tend(now)
        if now >= due and not self._step(Tick()):
            self._tick_after = now + ERROR_PAUSE_S
        self._dialler.expire()
        self._links.expire(now)
        self._show()

    def _woke(self) -> None:
        with self._lock:
            self._wake_in.recv(zmq.DONTWAIT)
            self._woken = False
            advert, self._advert = self._advert, None
            contacts = list(self._contacts)
            self._contacts.clear()
            keys, self._new_keys = self._new_keys, None
            leaving, self._leaving = self._leaving, False
        if keys is not None:
            self._wanted_keys = keys
            self._rekey()
        for ids in contacts:
            self._found = ids
            self._step(Contacts(ids))
        if advert is not None:
            self._step(Publish(advert))
        if leaving:
            self._step(Leave())

    def _rekey(self) -> None:
        """Take the wanted keys into use, now or (for lack of descriptors) in a while."""
        keys = self._wanted_keys
        if keys is not None and not self._reactor.guard("rekey", lambda: self._change_keys(keys)):
            self._rekey_due = time.monotonic() + REKEY_PAUSE_S
            return
        self._wanted_keys, self._rekey_due = None, float("inf")

    def _change_keys(self, security: SocketSecurity) -> None:
        self._server.rekey(security)
        self._links.rekey(security, time.monotonic())

    def _step(self, event: Event) -> bool:
        """Let the core handle `event` and carry out its effects; False if the core raised."""
        core = self._core
        assert core is not None
        effects: list[Effect] = []
        if not self._reactor.guard(
            "core", lambda: effects.extend(core.handle(event, time.monotonic()))
        ):
            return False
        for effect in effects:
            self._reactor.guard("effect", lambda effect=effect: self._carry_out(effect))  # type: ignore[misc]
        return True

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self._links.send(to, list(self._wire.encode(message)), time.monotonic())
            case Reply(to, message):
                self._reply(to, list(self._wire.encode(message)))
            case Dial(member, timeout_s):
                self._dialler.dial(member, timeout_s)
            case Watch(members):
                self._links.watch(members, time.monotonic())
            case Log(level, message):
                self._log.log(_LEVELS[level], "mesh: %s", message)
            case Departed():
                self.departed.set()
            case Displaced(elsewhere):
                self._succeed(elsewhere)

    def _succeed(self, elsewhere: bool) -> None:
        """Let another member take over, which looks for the others where this one knew them."""
        core = self._core
        assert core is not None
        live = [one.id for one in core.members() if one.status.live and not one.me]
        successor = self._successor(elsewhere)
        if successor is not None:
            self._core = successor
            self._shown = None
            self._links.watch(frozenset(), time.monotonic())
            self._step(Contacts(tuple(dict.fromkeys((*live, *self._found)))))

    def _reply(self, to: Connection, frames: list[bytes]) -> None:
        if to.startswith(_OWN_LINK):
            self.counters["error.reply_on_own_link"] += 1
            return
        self._server.reply(to, frames)

    def _from_outside(self, connection: bytes, frames: list[bytes]) -> None:
        self._receive(Connection(connection), frames)

    def _from_link(self, member: MemberId, frames: list[bytes]) -> None:
        self._receive(Connection(_OWN_LINK + member.encode()), frames)

    def _receive(self, connection: Connection, frames: list[bytes]) -> None:
        self.counters["received"] += 1
        self.counters["received_bytes"] += sum(map(len, frames))
        try:
            message = self._wire.decode(frames)
        except RemoteProtocolError as error:
            self.counters[f"dropped.{type(error).__name__}"] += 1
            count = self.counters["dropped.malformed"] = self.counters["dropped.malformed"] + 1
            if count & (count - 1) == 0:
                self._log.warning("mesh: dropped a message (%d so far): %s", count, error)
            return
        if self._wire.newest(frames) < PROTOCOL_VERSION:
            self.counters["received.from_older_version"] += 1
        self._step(Received(connection, message))

    def _lost(self, member: MemberId) -> None:
        self.counters["links.lost"] += 1
        self._step(LinkLost(member))

    def _dialled(self, member: MemberId, outcome: DialOutcome) -> None:
        self._step(Dialled(member, outcome))

    def _show_due(self, now: float) -> float:
        """When `_show` should run: now, after a pause, or (infinity) only after a change."""
        assert self._core is not None
        if (self._core.revision, self._core.joined) == self._shown:
            return float("inf")
        return max(now, self._show_after)

    def _show(self) -> None:
        core, changed = self._core, self._changed
        assert core is not None and changed is not None
        state = (core.revision, core.joined)
        started = time.monotonic()
        if state == self._shown or started < self._show_after:
            return
        self._shown = state
        changed(core.members(), core.joined)
        # While everything changes (a cold start), snapshots of a large table take at most a fifth
        # of this thread's time.
        now = time.monotonic()
        self._show_after = now + 4 * (now - started)

    def _live(self, member: MemberId) -> bool:
        return self._core is not None and self._core.live(member)

    def _locate(self, member: MemberId) -> Address | None:
        if not self._reach.allows(member):
            self.counters["dropped.not_reachable_from_here"] += 1
            return None
        return numeric_address(member)

    def _close(self, linger_s: float) -> None:
        with self._lock:
            self._stopping = True
            if self._wake_out is not None:
                self._wake_out.close(linger=0)
                self._wake_out = None
        self._dialler.close()
        self._links.close(linger_s)
        self._wake_in.close(linger=0)
        self._server.close(linger_s)
        self._context.term()
