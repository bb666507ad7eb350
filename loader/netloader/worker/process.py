"""What a worker process has once, however many models it loads: its mesh member and its sources.

vLLM makes a loader object for the target and one more for every draft model. They meet here.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import get_args

from netloader import metrics
from netloader.config import Config
from netloader.identity.identity import Role
from netloader.source.listener import SESSION
from netloader.worker.accusations import Accusations
from netloader.worker.membership import Membership
from netloader.worker.peers import Peers
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
    """This process's place in the mesh, the peers it can ask, and the sources it runs."""

    def __init__(self, config: Config, rank: int) -> None:
        """Join the mesh, unless it is off. `rank` is the global one.

        Raises `netmesh.SettingsError` for settings that contradict this machine.
        """
        self.config = config
        self.rank = rank
        log = logging.getLogger("netmesh")
        sessions = len(get_args(Role)) * config.source_settings.max_sessions
        prepare(log, MEMBER + RESERVE + sessions * SESSION)
        security = SocketSecurity.from_settings(config.mesh_settings, PURPOSE)
        if not config.mesh:
            warn_of_readable_key(config.mesh_settings, log)
        self.membership = Membership(config, rank)
        self.accusations = Accusations(
            lambda role, accused: self.membership.update(role, accuses=accused)
        )
        self._metrics = metrics.start(config.metrics_address(rank), self.membership.look)
        self.telemetry = self._metrics.telemetry
        """To be told what happens in this process."""
        self.sources = Sources(config, rank, self.membership, security, self.telemetry)
        self.peers = Peers(config, rank, self.membership, self.accusations, self.sources.endpoint)
        # A watch of its own, not the mesh's: static sources need keys without a mesh too.
        self._keys = KeyWatch(
            config.mesh_settings,
            security,
            self.sources.rekey,
            log,
            PURPOSE,
        )
        self._keys.start()

    def close(self) -> None:
        """Leave the mesh and stop all sources."""
        self._keys.stop()
        self.membership.leave()
        self.sources.close()
        self._metrics.close()


class OneWorker:
    """The worker of one process, made on first use. Thread safe.

    A forked child gets a worker of its own: sockets and threads of its parent's do not survive.
    """

    def __init__(
        self,
        make: Callable[[Config, int], Worker] = Worker,
        process_id: Callable[[], int] = os.getpid,
    ) -> None:
        self._make = make
        self._process_id = process_id
        self._lock = threading.Lock()
        self._made: tuple[int, Worker] | None = None

    def get(self, config: Config, rank: int) -> Worker:
        """This process's worker.

        Later calls keep the settings of the first: vLLM gives every loader of a process the same
        ones.
        """
        with self._lock:
            if self._made is None or self._made[0] != self._process_id():
                self._made = (self._process_id(), self._make(config, rank))
            return self._made[1]

    def swap(self, worker: Worker | None) -> Worker | None:
        """Make `worker` this process's worker; with None the next `get` makes one. Returns the
        previous one.

        For a program that plays several processes, and loads a model for each.
        """
        with self._lock:
            before = self._made[1] if self._made is not None else None
            self._made = (self._process_id(), worker) if worker is not None else None
            return before


WORKER = OneWorker()
"""This process's worker."""
