"""A member of the mesh, as the rest of the program sees it."""

from __future__ import annotations

import atexit
import logging
import os
import random
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util

import zmq

from netmesh.address import Address, numeric_address
from netmesh.bootstrap.advertise import choose_host, is_own
from netmesh.bootstrap.finder import Finder
from netmesh.bootstrap.sources import Bootstrap
from netmesh.core.engine import Engine
from netmesh.core.member import Member
from netmesh.core.reach import Reach
from netmesh.core.records import (
    Generation,
    JsonObject,
    MemberId,
    new_generation,
    new_record,
    pack_advert,
    unpack_advert,
)
from netmesh.core.settings import ProtocolSettings
from netmesh.core.wire import Codec
from netmesh.errors import ClosedError, SettingsError, StartError
from netmesh.io.descriptors import FEWEST, MEMBER, prepare
from netmesh.io.doubts import SeedDoubts
from netmesh.io.rotation import KeyWatch
from netmesh.io.security import SocketSecurity, warn_of_readable_key
from netmesh.io.shell import Shell
from netmesh.io.succession import Succession
from netmesh.settings import MeshSettings

_BEFORE_OTHERS = 100
"""multiprocessing calls what has a higher number first; its own cleanings have up to 16."""

CLOSE_S = 1.0
"""How long `close` waits for the thread, which needs milliseconds unless the CPU is starved."""

_INSECURE = (
    "mesh: MESH_INSECURE is set and there is no cluster key: anybody who reaches %s can %s. Set "
    "MESH_KEY_FILE (make a key with `%s`)"
)

_TAKEN = (
    "mesh: MESH_PORT: another program listens on port %d, so this member listens on port %d until "
    "that one is free: seeds that name the port lead to the other program, and a firewall may let "
    "it alone through. Give each server of a host a MESH_PORT of its own, or leave it out"
)

_NO_ROUTE = (
    "mesh: this host has no route to others: advertising %s, so only members on this host that do "
    "the same can be found. Set MESH_ADVERTISE to the address at which other hosts reach this one"
)

_OTHER_PORT = (
    "mesh: MESH_ADVERTISE=%s names an address of this host, but this member listens on port %d: "
    "nobody reaches it unless something forwards that port. Set MESH_PORT to the same port, or "
    "leave the port out (%d is then told to others)"
)


class Mesh:
    """This process's membership. Thread safe; belongs to the process that started it.

    After a fork, the child's copy refuses every call with ClosedError; start another one there.
    """

    def __init__(
        self,
        name: str,
        shell: Shell,
        engine: Engine,
        finder: Finder,
        bootstrap: Bootstrap,
        keys: KeyWatch,
        reach: Reach,
        doubts: SeedDoubts,
    ) -> None:
        """Use `Mesh.start`."""
        self._doubts = doubts
        self._reach = reach
        self.name = name
        """Name of the mesh."""
        self._shell = shell
        self._engine = engine
        self._finder = finder
        self._bootstrap = bootstrap
        self._keys = keys
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._snapshot: tuple[tuple[Member, ...], bool] = (engine.members(), engine.joined)
        self._closed = False
        self._at_exit: util.Finalize | None = None

    @classmethod
    def start(
        cls, settings: MeshSettings, advert: JsonObject, *, log: logging.Logger | None = None
    ) -> Mesh:
        """Listen, start the gossip thread and return; joining goes on in the background.

        `advert` is what others see of this member: a JSON object of at most 8 KiB. The call takes
        up to two seconds if seeds are names that do not resolve. The process's soft limit of
        descriptors becomes the hard one. Raises SettingsError, BindError, StartError, or
        LocalProtocolError for an advert that is too big or not JSON.
        """
        log = log or logging.getLogger("netmesh")
        pack_advert(advert)
        free = prepare(log, MEMBER)
        if free < FEWEST:
            raise StartError(f"{free} file descriptors are free, and it needs {FEWEST} at least")
        warn_of_readable_key(settings, log)
        security = SocketSecurity.from_settings(settings)
        bootstrap = Bootstrap.of(
            settings, os.environ, log, remote_allowed=security.enabled or settings.insecure
        )
        seeds = bootstrap.resolve_now()
        chosen = choose_host(
            settings, os.environ, seeds, remote_allowed=bootstrap.remote_allowed, log=log
        )
        if chosen.is_loopback and bootstrap.remote_allowed and not (seeds or settings.advertise):
            log.warning(_NO_ROUTE, chosen.host)
        reach = bootstrap.reach(chosen)
        own = settings.own_port
        try:
            shell = Shell(Codec(settings.name), security, log, reach)
            port = shell.bind(
                _listen_on(settings, chosen),
                # Only this one will do if it is published under another number.
                own if chosen.port else None,
                settings.well_known_ports if own is None else (own,),
                settings.port_range,
            )
        except (zmq.ZMQError, OSError) as error:
            raise StartError(str(error)) from error
        if own not in (None, port):
            log.warning(_TAKEN, own, port)
        address = Address(chosen.host, chosen.port + settings.offset if chosen.port else port)
        if address.port != port and is_own(chosen.host):
            log.warning(_OTHER_PORT, settings.advertise, port, port)
        try:
            bootstrap.directory.announce(address)
        except OSError as error:
            # Seeds may be enough. The finder tries again, and tells the operator.
            log.debug("mesh: no entry in the same-host directory: %s", error)
        except SettingsError as error:
            # Anybody may take the default path first, so only a path that was set is a mistake.
            if settings.directory is not None:
                shell.close_unstarted()
                raise
            log.debug("mesh: no entry in the same-host directory: %s", error)
        if settings.insecure and not security.enabled:
            program = settings.program
            log.warning(_INSECURE, address, program.exposed, program.keygen)
        codec = Codec(settings.name)
        doubts = SeedDoubts(lambda: keys.current, codec, lambda: mesh.size == 1, log)

        def contacts(found: tuple[Address, ...]) -> None:
            doubts.found(found)
            shell.contacts(tuple(one.member_id() for one in found))

        def member(address: Address, advert: JsonObject) -> Engine:
            generation = new_generation(_wall_ms(), secrets.randbits(22))
            return Engine(
                ProtocolSettings(),
                new_record(address.member_id(), generation, advert),
                random.Random(secrets.randbits(128)),
                shell.counters,
                reach,
                _wall_ms,
            )

        is_fixed = bool(settings.port or chosen.port) or not is_own(chosen.host)
        succession = Succession(
            address,
            member,
            lambda: shell.move(settings.well_known_ports, settings.port_range),
            log,
            is_fixed=is_fixed,
        )
        finder = Finder(
            bootstrap.sources(announce=lambda: succession.address),
            contacts,
            lambda found: bootstrap.accepts(found, succession.address),
            log,
            members=lambda: mesh.size,
        )
        keys = KeyWatch(settings, security, shell.rekey, log)
        mesh = cls(
            settings.name, shell, member(address, advert), finder, bootstrap, keys, reach, doubts
        )
        _LIVE.add(mesh)
        mesh._leave_at_exit()
        shell.start(
            mesh._engine, mesh._show, lambda elsewhere: mesh._succeed(succession, elsewhere)
        )
        finder.start()
        keys.start()
        doubts.start()
        log.info("mesh: %s is a member of %r", mesh.id, settings.name)
        return mesh

    @property
    def id(self) -> MemberId:
        """`host:port` at which others reach this member. If another process turns out to have this
        address, the port changes, and the log says so."""
        return self._engine.id

    @property
    def generation(self) -> Generation:
        """Of this start of the process; may grow when another process claims the same address."""
        return self._engine.generation

    @property
    def size(self) -> int:
        """Live members, this one included."""
        return self._engine.size

    def reaches(self, endpoint: str) -> bool:
        """Whether this member may connect to `endpoint` (`host:port`), which others published.

        The rule is that of the mesh itself: without a key loopback only; never loopback for a
        member that others reach from elsewhere; nothing outside `MESH_NETWORKS`.
        """
        return self._reach.allows(endpoint)

    def members(self) -> tuple[Member, ...]:
        """All known members, including this one; the dead are shown for ten minutes."""
        self._check()
        return self._snapshot[0]

    def wait(self, predicate: Callable[[tuple[Member, ...]], bool], timeout_s: float) -> bool:
        """Block until `predicate` holds for `members()`; False after `timeout_s` or on close.

        `predicate` runs on the calling thread, once for each change.
        """
        return self._wait(lambda snapshot: predicate(snapshot[0]), timeout_s)

    def wait_joined(self, timeout_s: float) -> bool:
        """Block until the table equals that of the others, or no others are known to exist."""
        return self._wait(lambda snapshot: snapshot[1], timeout_s)

    def publish(self, advert: JsonObject) -> None:
        """Replace the advert. Only the latest of several quick calls is sent.

        Raises LocalProtocolError when the advert is too big or not JSON.
        """
        self._check()
        self._shell.publish(unpack_advert(pack_advert(advert)))  # a copy the caller cannot change

    def counters(self) -> Mapping[str, int]:
        """How often each thing happened since the start, including `dropped.*` and `error.*`."""
        return dict(self._shell.counters)

    def leave(self, timeout_s: float = 1.0) -> None:
        """Say goodbye for at most `timeout_s` seconds, then close. Harmless when closed."""
        if self._foreign or self._closed:
            return
        self._finder.stop()
        self._bootstrap.directory.withdraw()
        self._shell.leave()
        self._shell.departed.wait(timeout_s)
        self.close()

    def close(self) -> None:
        """Close at once, without a goodbye; the others will notice. Harmless when closed."""
        if self._foreign or self._closed:
            return
        self._closed = True
        _LIVE.discard(self)
        atexit.unregister(self.leave)
        if self._at_exit is not None:
            self._at_exit.cancel()
        self._finder.stop()
        self._doubts.stop()
        self._keys.stop()
        self._bootstrap.directory.withdraw()
        self._shell.stop(CLOSE_S)
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _leave_at_exit(self) -> None:
        """Say goodbye when the process ends. A child that multiprocessing has forked runs no
        function of atexit, only multiprocessing's own."""
        atexit.register(self.leave)
        self._at_exit = util.Finalize(None, self.leave, exitpriority=_BEFORE_OTHERS)

    @property
    def _foreign(self) -> bool:
        """True in a forked child, where locks and sockets of the parent must not be touched."""
        return os.getpid() != self._pid

    def _check(self) -> None:
        if self._foreign:
            raise ClosedError(
                f"this mesh belongs to process {self._pid}: start one after the fork instead"
            )
        if self._closed:
            raise ClosedError("this mesh was left or closed")

    def _succeed(self, succession: Succession, elsewhere: bool) -> Engine | None:
        """The shell's thread: make the member that takes over, if there can be one."""
        successor = succession.after(self._engine, elsewhere=elsewhere)
        if successor is not None:
            self._engine = successor
        return successor

    def _show(self, members: tuple[Member, ...], joined: bool) -> None:
        with self._changed:
            self._snapshot = (members, joined)
            self._changed.notify_all()

    def _wait(
        self, holds: Callable[[tuple[tuple[Member, ...], bool]], bool], timeout_s: float
    ) -> bool:
        self._check()
        deadline = time.monotonic() + timeout_s
        while True:
            seen = self._snapshot
            if holds(seen):  # outside the lock: a predicate may be slow, and the mesh must not wait
                return True
            with self._changed:
                while self._snapshot is seen:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0 or self._closed:
                        return False
                    self._changed.wait(remaining)


def own_host(settings: MeshSettings, seeds: Sequence[str] = ()) -> str:
    """The address (an IP literal) that a member with these settings would advertise.

    For a service of the same program that others reach at the same address, in a process without
    a member. `seeds` are the addresses that the seeds lead to, as far as they were looked up; none
    is asked. Raises SettingsError.
    """
    allowed = settings.insecure or SocketSecurity.from_settings(settings).enabled
    known = [found for one in seeds if (found := numeric_address(MemberId(one))) is not None]
    return choose_host(settings, os.environ, known, remote_allowed=allowed).host


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def bind_host(settings: MeshSettings, advertised: str) -> str:
    """The address that a service binds which others reach at the address `advertised`: that one
    where an interface has it, else (behind NAT) every interface. `settings.bind` goes before."""
    if settings.bind is not None:
        return settings.bind
    if is_own(advertised):
        return advertised
    return "::" if ":" in advertised else "0.0.0.0"


def _listen_on(settings: MeshSettings, advertised: Address) -> str:
    """Loopback only, if we advertise loopback: that keeps a member without a key private."""
    if settings.bind is not None:
        return settings.bind
    if advertised.is_loopback:
        return advertised.host
    return "::" if advertised.is_v6 else "0.0.0.0"


_LIVE: weakref.WeakSet[Mesh] = weakref.WeakSet()
_INHERITED: list[Mesh] = []
"""Kept for ever in a forked child, so that no destructor touches the parent's context there."""


def _after_fork_in_child() -> None:
    for mesh in list(_LIVE):
        _INHERITED.append(mesh)
    _LIVE.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
