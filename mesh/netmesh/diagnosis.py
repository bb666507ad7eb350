"""What an operator can find out from one host: where seeds lead, who answers, who met here before.

Each function collects and judges nothing. None becomes a member, and nothing is written.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from netmesh.address import Address, numeric_address
from netmesh.bootstrap.directory import DirectoryEntry, HostDirectory
from netmesh.bootstrap.sources import Bootstrap
from netmesh.core.records import MemberId
from netmesh.errors import MeshError
from netmesh.io.encounter import Encounter, Meeting, meet
from netmesh.io.security import SocketSecurity, load_keys
from netmesh.settings import MeshSettings

AT_ONCE: Final = 16
"""Addresses looked at in parallel; each costs a thread and some descriptors."""

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class SeedFound:
    """Where one seed leads."""

    name: str
    """The seed, as a log shows it."""
    addresses: tuple[str, ...]
    """`host:port`; a seed without a port leads to several of a host."""
    problem: str = ""
    """Why it leads nowhere; empty when it resolved."""


def resolve_seeds(settings: MeshSettings, timeout_s: float) -> tuple[SeedFound, ...]:
    """Where the seeds of these settings lead, or those of the scheduler when none are set.

    Blocks for `timeout_s` at most: a resolver that hangs is left behind. Raises SettingsError, also
    for a seed on another host without a key.
    """
    security = SocketSecurity.from_settings(settings)
    allowed = security.enabled or settings.insecure
    log = logging.getLogger("netmesh")
    bootstrap = Bootstrap.of(settings, os.environ, log, remote_allowed=allowed)
    sources = bootstrap.sources(announce=None, on_this_host=False)

    def asker(find: Callable[[], list[Address]], name: str) -> Callable[[], SeedFound]:
        def ask() -> SeedFound:
            try:
                found = tuple(map(str, dict.fromkeys(find())))
            except (OSError, MeshError) as error:
                return SeedFound(name, (), str(error))
            return SeedFound(name, found, "" if found else "it leads to no address")

        return ask

    asked = [asker(source.find, source.name) for source in sources]
    late = f"no answer within {timeout_s:g} s"
    return tuple(
        answer or SeedFound(source.name, (), late)
        for source, answer in zip(sources, _side_by_side(asked, timeout_s), strict=True)
    )


def meet_all(
    settings: MeshSettings,
    addresses: Iterable[str],
    timeout_s: float,
    *,
    other_meshes: Sequence[str] = (),
    wall_s: Callable[[], float] = time.time,
) -> tuple[Encounter, ...]:
    """Who is at each of these addresses (`host:port`, literals), in their order.

    `other_meshes` are names to which somebody may belong who is not in this mesh. Blocks for
    `timeout_s`, and little longer. Raises SettingsError.
    """
    keys = load_keys(settings)
    names = dict.fromkeys((settings.name, *other_meshes))
    meshes = {name: SocketSecurity.from_keys(keys, name) for name in names}
    deadline = time.monotonic() + timeout_s

    def asker(where: str) -> Callable[[], Encounter]:
        def ask() -> Encounter:
            address = numeric_address(MemberId(where))
            if address is None:
                return Encounter(where, Meeting.UNREACHABLE, "it is not an address and a port")
            return meet(address, meshes, deadline, wall_s=wall_s)

        return ask

    wanted = list(dict.fromkeys(addresses))
    met = _side_by_side([asker(where) for where in wanted], timeout_s)
    return tuple(
        found or Encounter(where, Meeting.UNASKED) for where, found in zip(wanted, met, strict=True)
    )


def directory_entries(settings: MeshSettings) -> tuple[DirectoryEntry, ...]:
    """What members have written into the same-host directory. Raises SettingsError when somebody
    else could have written there, and OSError when the file system refuses."""
    return tuple(HostDirectory(settings.host_directory(), settings.name).entries())


def _side_by_side(tasks: Sequence[Callable[[], _Made]], timeout_s: float) -> list[_Made | None]:
    """The results in order; None for those that were not there in time, which are left behind."""
    made: list[_Made | None] = [None] * len(tasks)
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(tasks)):
        todo.put(number)

    def work() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            made[number] = tasks[number]()

    deadline = time.monotonic() + timeout_s
    threads = [
        threading.Thread(target=work, name="netmesh-look", daemon=True)
        for _ in range(min(AT_ONCE, len(tasks)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(made)
