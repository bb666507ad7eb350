"""The sources that a worker runs, one for each of its models."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from netloader.config import Config
from netloader.errors import ListenError
from netloader.identity.identity import Role
from netloader.source.listener import Exposure, Listener
from netloader.source.observer import SourceObserver
from netloader.source.offer import CurrentOffer, Offer
from netloader.source.recovery import again_as_promised, can_be_compared
from netloader.source.service import Source
from netloader.source.throttle import Throttle
from netloader.source.upstream import UpstreamService, UpstreamSettings
from netloader.system import affinity
from netloader.system.threads import TransferThread, use_device
from netloader.telemetry import SILENT, Telemetry
from netloader.upstream.admission import Access
from netloader.upstream.group import OrderedCarrier, carrier_for
from netloader.worker.membership import Membership
from netloader.worker.position import Position
from netmesh import SocketSecurity

_log = logging.getLogger(__name__)

_OTHERS = "it was reloaded, and its weights are not those that it had promised"

_UNSEEN = "it was reloaded, and weights in a device's memory are not read again to compare them"


_PORT = "; give each server of this host a LISTEN_PORT of its own, or leave LISTEN_PORT out"


@dataclass
class _Model:
    """One model of the worker."""

    source: Source | None = None
    offer: Offer | None = None
    """The last offer that was served."""
    withdrawals: int = 0


class Sources:
    """Listens, serves, withdraws and serves again, and publishes every change. Thread safe.

    Sources call `Membership` from threads of their own, but never this object, so a lock held here
    cannot block a source.
    """

    def __init__(
        self,
        config: Config,
        position: Position,
        membership: Membership,
        security: SocketSecurity,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`security` are the keys of the control channel."""
        self._telemetry = telemetry
        self._config = config
        self._position = position
        self._membership = membership
        self._security = security
        sessions = len(get_args(Role)) * config.source_settings.max_sessions
        limit = config.rate_limit
        self._throttle = Throttle(limit, sessions) if limit is not None else None
        self._lock = threading.Lock()
        self._models: dict[Role, _Model] = {role: _Model() for role in get_args(Role)}
        self._closing = threading.Event()

    @property
    def security(self) -> SocketSecurity:
        """The current keys of the control channel: ask again for each connection."""
        with self._lock:
            return self._security

    def endpoint(self, role: Role) -> str | None:
        """Where the source of a model listens; None when it has no source."""
        with self._lock:
            source = self._models[role].source
            return source.endpoint if source is not None else None

    def listen(self, role: Role, device_type: str = "cpu") -> Source | None:
        """The source for one of this worker's models, refusing replicas until it has an offer.
        `device_type` is the model's, as torch calls it.

        None, with the reason logged, when its port cannot be listened on; the worker still serves
        its own requests. Raises `ConfigError` for a `LISTEN_PORT` that leaves the range.
        """
        port = self._config.port_of(self._position.rank, draft=role == "draft")
        with self._lock:
            model = self._models[role]
            if model.source is None:
                model.source = self._start(role, port, device_type)
            return model.source

    def _start(self, role: Role, port: int | None, device_type: str) -> Source | None:
        settings, membership = self._config.source_settings, self._membership
        serves = self._config.upstream.serves
        # Upstream's replicas, which exist on NPUs, know a source by the port that was set.
        has_door = serves or (device_type == "npu" and port is not None)
        try:
            listener = Listener(
                membership.host,
                port,
                self._security,
                settings.handshake_timeout_s,
                has_door=has_door,
                exposure=Exposure(
                    membership.bind,
                    self._config.public_port_of(self._position.rank, draft=role == "draft"),
                    self._config.mesh_settings.port_range,
                ),
            )
        except ListenError as error:
            remedy = "" if port is None else _PORT
            _log.warning(
                "this worker will not be a source of its %s model: %s%s", role, error, remedy
            )
            return None
        return Source(
            listener,
            lambda: membership.generation,
            settings,
            throttle=self._throttle,
            upstream=self._serve_upstream(device_type) if has_door else None,
            observer=self._observer(role),
        )

    def _observer(self, role: Role) -> SourceObserver:
        """Publishes, and counts, what happens at the source of one model."""
        membership, telemetry = self._membership, self._telemetry

        def sessions(count: int) -> None:
            telemetry.sessions(role, count)
            membership.update(role, serving=count)

        return SourceObserver(
            sessions,
            lambda reason: membership.update(role, state="unavailable", reason=reason),
            telemetry.refused,
            telemetry.session_ended,
        )

    def _serve_upstream(self, device_type: str) -> Callable[[CurrentOffer], UpstreamService]:
        """Makes what answers replicas of vLLM Ascend's own Netloader, if only to refuse them."""
        config = self._config
        settings = UpstreamSettings(
            Access(
                config.upstream.serves,
                config.has_key,
                config.upstream_insecure,
                config.mesh_settings.insecure,
            ),
            self._position.part,
            config.source_settings.timeout_s,
            config.source_settings.rendezvous_timeout_s,
        )
        carrier: OrderedCarrier | None = None
        if config.upstream.serves:
            carrier = carrier_for(device_type)
        return lambda current: UpstreamService(current, settings, carrier, self._throttle)

    def withdrawals(self, role: Role) -> int:
        """How often the weights of this role have been withdrawn so far."""
        with self._lock:
            return self._models[role].withdrawals

    def serve(self, role: Role, offer: Offer, withdrawals: int | None = None) -> bool:
        """Hand out `offer`, and announce it in the mesh and in `OUTPUT_PREFIX`'s file.

        Returns False and does nothing when no source listens, or when these weights were withdrawn
        since the count was `withdrawals`.
        """
        with self._lock:
            model = self._models[role]
            if model.source is None or withdrawals not in (None, model.withdrawals):
                return False
            model.source.serve(offer)
            model.offer = offer
            endpoint = model.source.endpoint
            nbytes = offer.weights.manifest.nbytes
            self._membership.update(
                role, state="ready", reason="", nbytes=nbytes, sharing=False, held=0, storage=""
            )
        if role == "target":
            self._write_address(endpoint)
        return True

    def share(self, role: Role, offer: Offer) -> bool:
        """Hand out the chunks of `offer` that are available, while the model is being loaded.
        Returns False and does nothing when no source listens."""
        with self._lock:
            source = self._models[role].source
            if source is None:
                return False
            source.serve(offer)
        return True

    def gained(self, role: Role) -> None:
        """Tell replicas of more chunks of what is shared. Does not block."""
        source = self._models[role].source
        if source is not None:
            source.gained()

    def hold(self, role: Role, reason: str) -> None:
        """Keep the sessions of a model whose weights may change now, until `serve` or `withdraw`.

        Once this returns, nothing reads the weights any more.
        """
        with self._lock:
            source = self._models[role].source
            self._membership.update(role, sharing=False)
        if source is not None:
            source.hold(reason)

    def unshare(self, role: Role, reason: str, *, for_now: bool = False) -> None:
        """Hand out nothing of a model that is being loaded. With `for_now` replicas are told to
        come again.

        Once this returns, nothing reads the weights any more: they may be changed.
        """
        with self._lock:
            source = self._models[role].source
        if source is not None:
            source.withdraw(reason, for_now=for_now)

    def withdraw(self, role: Role, reason: str) -> None:
        """Stop being a source of one model, and say why.

        Once this returns, nothing reads the weights any more: they may be changed.
        """
        with self._lock:
            model = self._models[role]
            model.withdrawals += 1
            self._membership.update(role, state="unavailable", reason=reason)
            source, offer = model.source, model.offer
        if source is not None:
            source.withdraw(reason)
        if offer is not None:
            _log.info("not a source of %s for now: %s", offer.identity.names.given, reason)

    def resume(self, role: Role, model: str) -> None:
        """Become a source again once the reloaded weights match the promised digests. Call this
        after `withdraw`, while they are loaded again from `model`. Does not wait for the match.

        Weights from elsewhere count as different weights, even if some promised bytes are left.
        """
        with self._lock:
            offer, withdrawals = self._models[role].offer, self._models[role].withdrawals
        if offer is None:
            return
        if model != offer.identity.names.given:
            self._renounce(role, offer, f"it holds other weights now: those of {model}")
            return
        if not can_be_compared(offer):
            self._renounce(role, offer, _UNSEEN)
            return
        self._membership.update(role, state="loading", reason="its weights are being reloaded")

        def wait() -> None:
            affinity.step_aside(background=True)
            use_device(offer.weights.device)
            if again_as_promised(offer, self._closing) and self.serve(role, offer, withdrawals):
                _log.info("ready to serve %s again: its weights were reloaded", model)
            elif withdrawals == self.withdrawals(role) and not self._closing.is_set():
                self._renounce(role, offer, _OTHERS)

        TransferThread(wait, f"{affinity.OURS}resume", stop=self._closing.set).start()

    def _renounce(self, role: Role, offer: Offer, reason: str) -> None:
        _log.warning("not a source of %s any more: %s", offer.identity.names.given, reason)
        self._membership.update(role, state="unavailable", reason=reason)

    def drop(self, role: Role, reason: str) -> None:
        """Stop the source of one model for good, and let go of its weights."""
        with self._lock:
            model = self._models[role]
            model.withdrawals += 1
            source, model.source, model.offer = model.source, None, None
        if source is not None:
            source.withdraw(reason)
            source.close()

    def rekey(self, security: SocketSecurity) -> None:
        """Accept replicas by these keys from now on."""
        with self._lock:
            self._security = security
            for model in self._models.values():
                if model.source is not None:
                    model.source.rekey(security)

    def close(self) -> None:
        """Stop all sources. Takes about a second at most for each."""
        self._closing.set()
        with self._lock:
            sources = [model.source for model in self._models.values() if model.source is not None]
        for source in sources:
            source.close()

    def _write_address(self, endpoint: str) -> None:
        """Write the address where upstream's tools look for it."""
        prefix = self._config.output_prefix
        if prefix is None:
            return
        path = Path(f"{prefix}{self._position.rank}.txt")
        try:
            path.write_text(endpoint)
        except OSError as error:
            _log.warning("OUTPUT_PREFIX: cannot write %s: %s", path, error)
