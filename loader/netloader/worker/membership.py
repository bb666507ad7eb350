"""This worker as a member of the mesh: what it announces about its models, and who else is
there."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping

import netmesh
from netloader.config import Config
from netloader.discovery import advert
from netloader.discovery.advert import Holding
from netloader.identity.identity import Role
from netloader.worker.position import Position
from netmesh import (
    JsonObject,
    LocalProtocolError,
    Member,
    Mesh,
    MeshError,
    MeshSettings,
    bind_host,
    is_own,
    own_host,
)

_log = logging.getLogger(__name__)


class Membership:
    """The mesh, as one worker uses it. Thread safe: sources report from threads of their own.

    Without a mesh all calls still work, but they reach nobody and find nobody.
    """

    def __init__(self, config: Config, position: Position) -> None:
        """Join the mesh, unless it is off.

        Raises `netmesh.SettingsError` for settings that contradict this machine. A mesh that cannot
        be started for another reason is logged, and the worker goes on without one.
        """
        settings = config.mesh_settings.model_copy(update={"offset": position.on_host})
        self._is_wanted = config.mesh
        self._mesh = _join(settings, advert.encode(())) if config.mesh else None
        self._generation = secrets.randbits(63)
        self._lock = threading.Lock()
        self._holdings: dict[Role, Holding] = {}
        self._is_unheard = False
        """Whether the mesh did not take the last advert."""
        if self._mesh is None:
            self.host = own_host(settings)
            """Where replicas reach this worker: an address literal, without brackets."""
        else:
            self.host = str(self._mesh.id).rpartition(":")[0].strip("[]")
        self._nameless = f"{self.host} rank {position.rank}"
        self.bind = bind_host(settings, self.host)
        """The address that ports for replicas are bound to."""
        self.confined = settings.port_range is not None or not is_own(self.host)
        """Whether others reach only ports that are chosen or published: not any free one."""

    @property
    def name(self) -> str:
        """The name by which this worker introduces itself to others."""
        return self._nameless if self._mesh is None else str(self._mesh.id)

    @property
    def generation(self) -> int:
        """Random for each process start; the mesh's own where there is a mesh."""
        return self._mesh.generation if self._mesh is not None else self._generation

    @property
    def absent(self) -> str:
        """Why there is no mesh; empty when there is one."""
        if self._mesh is not None:
            return ""
        return "could not be joined" if self._is_wanted else "off"

    def members(self) -> tuple[Member, ...]:
        """All known members, including this worker; empty without a mesh."""
        return self._mesh.members() if self._mesh is not None else ()

    def look(self) -> tuple[tuple[Member, ...], Mapping[str, int]]:
        """All known members, and what the mesh has counted; nothing of both without a mesh. Raises
        `netmesh.ClosedError` once this worker has left."""
        if self._mesh is None:
            return (), {}
        return self._mesh.members(), self._mesh.counters()

    def reaches(self, endpoint: str) -> bool:
        """Whether this worker may connect to an endpoint that a member published."""
        return self._mesh is None or self._mesh.reaches(endpoint)

    def wait_joined(self, timeout_s: float) -> bool:
        """Whether another member has answered. Waits for `timeout_s` at most."""
        return self._mesh is not None and self._mesh.wait_joined(timeout_s)

    def holding(self, role: Role) -> Holding | None:
        """What this worker announces about one of its models."""
        with self._lock:
            return self._holdings.get(role)

    def announce(self, **values: object) -> None:
        """Announce what is held, replacing earlier announcements for the same role.

        `values` are fields of `Holding`. Texts are cut to the length that readers accept.
        """
        holding = Holding.fitted(values)
        with self._lock:
            self._say(holding)

    def update(self, role: Role, **changes: object) -> bool:
        """Announce changed fields. Returns whether there is anything new: False as well when
        nothing was announced yet."""
        with self._lock:
            before = self._holdings.get(role)
            after = before.changed(**changes) if before is not None else None
            if after is None or after == before:
                return False
            self._say(after)
            return True

    def forget(self, role: Role) -> None:
        """Announce nothing of one model any more."""
        with self._lock:
            if self._holdings.pop(role, None) is not None:
                self._publish()

    def leave(self) -> None:
        """Tell the others that this worker leaves. Takes about a second at most."""
        if self._mesh is not None:
            self._mesh.leave()

    def _say(self, holding: Holding) -> None:
        """The caller holds the lock, so that announcements are sent in the order they were made."""
        self._holdings[holding.role] = holding
        self._publish()

    def _publish(self) -> None:
        if self._mesh is None:
            return
        holdings = tuple(self._holdings.values())
        try:
            try:
                self._mesh.publish(advert.encode(holdings))
            except LocalProtocolError:  # Too long: who brings what matters least.
                self._mesh.publish(advert.encode([one.changed(feeds=()) for one in holdings]))
        except MeshError as error:
            # Others then know less about this worker, but it still serves its own requests. While
            # it loads it tries every second, and says so once.
            level = logging.DEBUG if self._is_unheard else logging.WARNING
            _log.log(level, "could not publish what this worker holds: %s", error)
            self._is_unheard = True
        else:
            self._is_unheard = False


def _join(settings: MeshSettings, holdings: JsonObject) -> Mesh | None:
    try:
        return Mesh.start(settings, holdings, log=logging.getLogger("netmesh"))
    except netmesh.SettingsError:
        raise
    except (MeshError, OSError) as error:
        _log.warning("going on without the mesh: %s", error)
        return None
