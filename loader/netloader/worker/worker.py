"""What a worker process has once, however many models it loads: its mesh member and its sources.

vLLM makes a loader object for the target and one more for every draft model. They meet here.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import netmesh
from netloader.checkpoint.wanted import content_id
from netloader.config import Config
from netloader.discovery import advert, selection
from netloader.discovery.advert import MAX_ACCUSED, Accused, Holding
from netloader.discovery.candidate import Candidate, Process
from netloader.errors import ListenError
from netloader.identity.identity import Identity, Role
from netloader.source.listener import Listener
from netloader.source.recovery import again_as_promised
from netloader.source.service import Source
from netloader.source.session import Offer
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netmesh import KeyWatch, Member, MemberId, Mesh, MeshError, SocketSecurity, own_host

_log = logging.getLogger(__name__)

_OTHERS = "it was reloaded, and its weights are not those that it had promised"

PURPOSE = "netloader"
"""Keys of the control channel are derived for this purpose: not those of the gossip."""


class Worker:
    """This process's place in the mesh, and the sources it runs.

    Thread safe: sources report session counts from their own threads.
    """

    def __init__(self, config: Config, rank: int) -> None:
        """Join the mesh, unless it is off.

        Raises `netmesh.ConfigError` for settings that contradict this machine. A mesh that cannot
        be started for another reason is logged, and the worker goes on without one.
        """
        self.config = config
        self.rank = rank
        self.security = SocketSecurity.from_settings(config.mesh_settings, PURPOSE)
        """The keys of the control channel as they are now: ask anew for each connection."""
        self._lock = threading.Lock()
        self._holdings: dict[Role, Holding] = {}
        self._sources: dict[Role, Source] = {}
        self._epochs: dict[Role, int] = {}
        self._offers: dict[Role, Offer] = {}
        self._closing = threading.Event()
        self._liars: set[Process] = set()
        self._read: dict[MemberId, tuple[tuple[int, int], tuple[Holding, ...]]] = {}
        sessions = len(get_args(Role)) * config.max_sessions
        limit = config.rate_limit
        self._throttle = Throttle(limit, sessions) if limit is not None else None
        self._generation = secrets.randbits(63)
        self._mesh = self._join() if config.mesh else None
        self._host = self._listen_host()
        # Of its own, and not the mesh's: static sources have keys without a mesh as well.
        self._keys = KeyWatch(
            config.mesh_settings, self.security, self._rekey, logging.getLogger("netmesh"), PURPOSE
        )
        self._keys.start()

    @property
    def name(self) -> str:
        """How this worker calls itself towards others."""
        return str(self._mesh.id) if self._mesh is not None else f"{self._host} rank {self.rank}"

    @property
    def generation(self) -> int:
        """Random per process start; the mesh's where there is one."""
        return self._mesh.generation if self._mesh is not None else self._generation

    def holding(self, role: Role) -> Holding | None:
        """What this worker says of one of its models."""
        return self._holdings.get(role)

    def candidates(
        self, identity: Identity, backend: str
    ) -> tuple[tuple[Candidate, ...], list[str]]:
        """Sources for these weights, best first, and why others were skipped.

        In order: `SOURCE` of `CONFIG_FILE`, `SOURCE` of the extra config, the mesh. Waits for the
        mesh to answer, for `DISCOVERY_TIMEOUT` at most. May read the checkpoint to compare it.
        """
        static = self._static(identity.role)
        skipped: list[str] = []
        listed = bool(self.config.source or self.config.file_source)
        if listed and not static:
            skipped.append(f"SOURCE has no entry for rank {self.rank}")
        if self._mesh is None:
            skipped.append("mesh: off" if not self.config.mesh else "mesh: could not be joined")
            return static, skipped
        if not self._mesh.wait_joined(self.config.discovery_timeout_s):
            skipped.append(
                f"mesh: no contact answered within {self.config.discovery_timeout_s:g} s"
            )
        choice = self._choose(self._mesh, identity, backend)
        skipped += [f"mesh: {reason}" for reason in choice.rejected]
        if not choice.candidates and not choice.rejected:
            skipped.append(f"mesh: nobody else holds {identity.model} ({identity.role})")
        return static + choice.candidates, skipped

    def find(self, identity: Identity, backend: str) -> tuple[Candidate, ...]:
        """The same sources as they are known at this moment. Never waits."""
        static = self._static(identity.role)
        if self._mesh is None:
            return static
        return static + self._choose(self._mesh, identity, backend, explain=False).candidates

    @property
    def may_find(self) -> bool:
        """Whether there is any way to hear of a source that is not there yet."""
        return self._mesh is not None or bool(self.config.sources_of(self.rank))

    def offered(self, identity: Identity) -> list[str]:
        """What can be had in the mesh that fits `identity` in everything but content: in words,
        with the content ids that `CONTENT` takes."""
        if self._mesh is None:
            return []
        fields = identity.fields()
        return [
            f"{member.id} has {holding.model} as CONTENT={content_id(holding.content)}"
            for member in self._mesh.members()
            if not member.me and member.selectable
            for holding in self._holdings_of(member)
            if holding.state == "ready"
            and holding.role == identity.role
            and holding.content
            and holding.fields == fields
        ]

    def alike(self, identity: Identity) -> list[Holding]:
        """What members hold that may turn out to be these weights once the model is built: all that
        is known before is equal. Waits for the mesh to answer, for `DISCOVERY_TIMEOUT` at most."""
        if self._mesh is None or not self._mesh.wait_joined(self.config.discovery_timeout_s):
            return []
        mine = replace(identity, built={}).fields().items()
        return [
            holding
            for member in self._mesh.members()
            if not member.me and member.selectable
            for holding in self._holdings_of(member)
            if holding.state == "ready" and holding.content and mine <= holding.fields.items()
        ]

    def epoch(self, role: Role) -> int:
        """How often the weights of this role have been withdrawn so far."""
        return self._epochs.get(role, 0)

    def accuse(self, role: Role, process: Process) -> None:
        """Never take this process from the mesh again, and tell the mesh that it sent wrong bytes.

        Who is in a static list as well is avoided there by the pull alone: the operator wants it.
        """
        self._liars.add(process)
        endpoint, generation = process
        accused = Accused(endpoint=endpoint, generation=generation)
        with self._lock:
            holding = self._holdings.get(role)
            before = holding.accuses if holding is not None else ()
        if accused not in before:
            self.update(role, accuses=(*before, accused)[-MAX_ACCUSED:])

    def _static(self, role: Role) -> tuple[Candidate, ...]:
        own = self._sources.get(role)
        return tuple(
            Candidate(endpoint, origin)
            for endpoint, origin in self.config.sources_of(self.rank, draft=role == "draft")
            # One list for all hosts names this worker too.
            if own is None or endpoint != own.endpoint
        )

    def _choose(
        self, mesh: Mesh, identity: Identity, backend: str, *, explain: bool = True
    ) -> selection.Choice:
        return selection.choose(
            mesh.members(),
            identity,
            backend,
            self.config.chunk_bytes,
            liars=self._liars,
            read=self._holdings_of,
            explain=explain,
        )

    def _holdings_of(self, member: Member) -> tuple[Holding, ...]:
        """What a member holds, read once for each version of its advert: a pull asks often."""
        version = (int(member.generation), member.version)
        known = self._read.get(member.id)
        if known is None or known[0] != version:
            known = (version, advert.decode(member.advert))
            self._read[member.id] = known
        return known[1]

    def listen(self, role: Role) -> Source | None:
        """The source for one of this worker's models, refusing replicas until it has an offer.

        None, with the reason logged, when its port cannot be listened on: the worker then serves
        its own requests all the same.
        """
        if role in self._sources:
            return self._sources[role]
        port = self.config.port_of(self.rank, draft=role == "draft")
        source_keys = self.security
        settings = SourceSettings(
            timeout_s=self.config.transfer_timeout_s, max_sessions=self.config.max_sessions
        )
        try:
            listener = Listener(self._host, port, source_keys, settings.handshake_timeout_s)
        except ListenError as error:
            _log.warning("this worker will not be a source of its %s model: %s", role, error)
            return None
        source = Source(
            listener,
            lambda: self.generation,
            settings,
            throttle=self._throttle,
            on_sessions=lambda count: self.update(role, serving=count),
            on_changed=lambda reason: self.update(role, state="unavailable", reason=reason[:1024]),
        )
        with self._lock:
            self._sources[role] = source
            if source_keys != self.security:
                source.rekey(self.security)
        return source

    def announce(self, holding: Holding) -> None:
        """Publish what is held, replacing what was said about the same role."""
        with self._lock:
            self._holdings[holding.role] = holding
            self._publish()

    def update(self, role: Role, **changes: object) -> None:
        """Publish changed fields of a holding; nothing when there is none yet."""
        with self._lock:
            self._change(role, **changes)

    def _change(self, role: Role, **changes: object) -> None:
        """The same, for who holds the lock."""
        holding = self._holdings.get(role)
        if holding is not None:
            self._holdings[role] = holding.model_copy(update=changes)
            self._publish()

    def serve(self, role: Role, offer: Offer, epoch: int | None = None) -> bool:
        """Become a source: hand out `offer`, say so in the mesh and in `OUTPUT_PREFIX`'s file.

        False, and nothing done, when these weights were withdrawn since `epoch`.
        """
        source = self._sources[role]
        with self._lock:
            if epoch is not None and epoch != self._epochs.get(role, 0):
                return False
            source.serve(offer)
            self._offers[role] = offer
            self._change(role, state="ready", reason="", nbytes=offer.weights.manifest.nbytes)
        prefix = self.config.output_prefix
        if prefix is not None and role == "target":
            path = Path(f"{prefix}{self.rank}.txt")
            try:
                path.write_text(source.endpoint)
            except OSError as error:
                _log.warning("OUTPUT_PREFIX: cannot write %s: %s", path, error)
        return True

    def withdraw(self, role: Role, reason: str) -> None:
        """Stop being a source of one model, and say why."""
        with self._lock:
            self._epochs[role] = self._epochs.get(role, 0) + 1
            self._change(role, state="unavailable", reason=reason)
        source = self._sources.get(role)
        if source is not None:
            source.withdraw(reason)

    def resume(self, role: Role, model: str) -> None:
        """After `withdraw`, once the weights are being loaded anew from `model`: be a source again
        when they are what was promised. Does not wait for it.

        Weights from elsewhere are other weights, whatever bytes of the promised ones are left.
        """
        offer = self._offers.get(role)
        if offer is None:
            return
        if model != offer.identity.names.given:
            self.update(role, reason=f"it holds other weights now: those of {model}"[:1024])
            return
        epoch = self.epoch(role)
        self.update(role, state="loading", reason="its weights are being reloaded")

        def wait() -> None:
            affinity.step_aside(background=True)
            if again_as_promised(offer, self._closing) and self.serve(role, offer, epoch):
                _log.info("ready to serve %s again: its weights were reloaded", model)
            elif epoch == self.epoch(role) and not self._closing.is_set():
                _log.warning("not a source of %s any more: %s", model, _OTHERS)
                self.update(role, state="unavailable", reason=_OTHERS)

        TransferThread(wait, f"{affinity.OURS}resume", stop=self._closing.set).start()

    def close(self) -> None:
        """Leave the mesh and stop all sources."""
        self._closing.set()
        self._keys.stop()
        if self._mesh is not None:
            self._mesh.leave()
        for source in self._sources.values():
            source.close()

    def _rekey(self, security: SocketSecurity) -> None:
        """Called by the key watch's thread."""
        with self._lock:
            self.security = security
            for source in self._sources.values():
                source.rekey(security)

    def _join(self) -> Mesh | None:
        try:
            return Mesh.start(
                self.config.mesh_settings, advert.encode(()), log=logging.getLogger("netmesh")
            )
        except netmesh.ConfigError:
            raise
        except MeshError as error:
            _log.warning("going on without the mesh: %s", error)
            return None

    def _listen_host(self) -> str:
        """The address replicas reach this worker at: the mesh's, or by the mesh's rules."""
        if self._mesh is not None:
            host, _, _ = str(self._mesh.id).rpartition(":")
            return host.strip("[]")
        return own_host(self.config.mesh_settings)

    def _publish(self) -> None:
        if self._mesh is None:
            return
        try:
            self._mesh.publish(advert.encode(tuple(self._holdings.values())))
        except MeshError as error:
            # Others then know less of this worker; it serves its own requests all the same.
            _log.warning("could not publish what this worker holds: %s", error)


@dataclass
class _Process:
    """The worker of one process: a forked child must not use its parent's."""

    pid: int
    worker: Worker


_current: _Process | None = None
_lock = threading.Lock()


def get_worker(config: Config, rank: int) -> Worker:
    """This process's worker, made on first use.

    Later calls keep the first one's settings: vLLM hands every loader of a process the same.
    """
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _Process(os.getpid(), Worker(config, rank))
        return _current.worker
