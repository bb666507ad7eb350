"""What a target and its draft models share: a mesh member, sources, and the peers that are known.

vLLM makes a loader object for the target and one more for every draft model. `workers.py` brings
those of one engine together here.
"""

from __future__ import annotations

import logging
from typing import get_args

from netloader import metrics
from netloader.config import Config
from netloader.identity.identity import Role
from netloader.source.listener import SESSION
from netloader.worker.accusations import Accusations
from netloader.worker.membership import Membership
from netloader.worker.peers import Peers
from netloader.worker.position import Position
from netloader.worker.progress import Progress
from netloader.worker.sources import Sources
from netmesh import (
    MEMBER,
    RESERVE,
    KeyWatch,
    SocketSecurity,
    prepare,
    warn_of_readable_key,
)

PURPOSE = "netloader"
"""Keys of the control channel are derived for this purpose; gossip has keys of its own."""


class Worker:
    """An engine's place in the mesh, the peers it can ask, and the sources it runs."""

    def __init__(self, config: Config, position: Position) -> None:
        """Join the mesh, unless it is off. Raises `netmesh.SettingsError` for settings that
        contradict this machine.
        """
        self.config = config
        self.position = position
        log = logging.getLogger("netmesh")
        sessions = len(get_args(Role)) * config.source_settings.max_sessions
        prepare(log, MEMBER + RESERVE + sessions * SESSION)
        security = SocketSecurity.from_settings(config.mesh_settings, PURPOSE)
        if not config.mesh:
            warn_of_readable_key(config.mesh_settings, log)
        self.membership = Membership(config, position)
        self.accusations = Accusations(
            lambda role, accused: self.membership.update(role, accuses=accused)
        )
        self._metrics = metrics.start(config.metrics_address(position.rank), self.membership.look)
        self.telemetry = self._metrics.telemetry
        """To be told what happens in this process."""
        self.sources = Sources(config, position, self.membership, security, self.telemetry)
        self.peers = Peers(
            config, position, self.membership, self.accusations, self.sources.endpoint
        )
        self.progress = Progress(self.membership, lambda: self.peers.loading)
        """To be told how far loads are."""
        # A watch of its own, not the mesh's: static sources need keys without a mesh too.
        self._keys = KeyWatch(
            config.mesh_settings,
            security,
            self.sources.rekey,
            log,
            PURPOSE,
        )
        self._keys.start()

    @property
    def rank(self) -> int:
        """Unique over all engines of a deployment (`Position.rank`)."""
        return self.position.rank

    def release(self, role: Role) -> None:
        """Forget a model: withdraw it, and let go of its weights."""
        self.sources.drop(role, "its model is gone")
        self.membership.forget(role)

    def close(self) -> None:
        """Leave the mesh and stop all sources."""
        self._keys.stop()
        self.membership.leave()
        self.sources.close()
        self._metrics.close()
