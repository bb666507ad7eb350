"""Serving upstream's replicas: one after the other, each with the whole model in upstream's order.

The front door hands over connections with a question. A replica that may be served waits for its
turn, as it would at upstream's own server. A thread of its own does all this, so upstream's
replicas cannot hold up ours, and both may be served at once.
"""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from dataclasses import dataclass

from netloader.errors import ProtocolError, TransportError
from netloader.source.offer import CurrentOffer, Offer
from netloader.source.throttle import Bucket, Throttle
from netloader.system import affinity, memory
from netloader.system.threads import TransferThread
from netloader.upstream import admission, messages
from netloader.upstream.admission import Access, Offered
from netloader.upstream.group import SOURCE_RANK, OrderedCarrier, OrderedGroup, meet_replica
from netloader.upstream.messages import JoinAccepted, JoinRefused, MeshHere, UpstreamJoin
from netloader.upstream.tensors import Ordered, ordered

_log = logging.getLogger(__name__)

_MAX_QUOTE = 300

_LINES_PER_S = 0.2
_LINES_BURST_S = 50.0
"""Refusals are logged ten at once and then one in five seconds: strangers must not fill the log."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How upstream's replicas are served."""

    access: Access
    rank: int
    """This worker's global rank."""
    timeout_s: float
    """Seconds without progress after which a replica is given up."""
    rendezvous_timeout_s: float
    """Seconds that an accepted replica may take to let the source in."""
    waiting: int = 16
    """Replicas that may wait for their turn."""
    patience_s: float = 45.0
    """Seconds that a replica may wait for its turn: upstream's replica gives up after 60."""
    answer_timeout_s: float = 1.0
    """Seconds that an answer may take to leave. It fits any socket's buffer."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """A connection that has brought a JOIN."""

    end: socket.socket
    address: tuple[str, int]
    join: UpstreamJoin
    until: float

    @property
    def name(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"


class UpstreamService:
    """Answers the front door's questions, and serves. Thread safe."""

    def __init__(
        self,
        current: CurrentOffer,
        settings: UpstreamSettings,
        carrier: OrderedCarrier | None,
        throttle: Throttle | None = None,
    ) -> None:
        """`carrier` is None where this worker could carry nothing for upstream's replicas."""
        self._current = current
        self._settings = settings
        self._carrier = carrier
        self._throttle = throttle
        self._lines = Bucket(_LINES_PER_S, _LINES_BURST_S)
        self._callers: queue.Queue[_Caller | None] = queue.Queue(settings.waiting)
        self._lock = threading.Lock()  # Guards the two fields below.
        self._closed = False
        self._serving: _Serving | None = None
        self._thread = TransferThread(
            self._run, f"{affinity.OURS}upstream", stop=lambda: self.end("this process ends")
        )
        self._thread.start()

    def receive(self, end: socket.socket, address: tuple[str, int], data: bytes) -> None:
        """Take over a connection that has brought a JSON object. Does not wait."""
        try:
            question = messages.decode_question(data)
        except ProtocolError as error:
            self._refuse(end, address, str(error))
            return
        if not isinstance(question, UpstreamJoin):
            self._answer(end, MeshHere())
            end.close()
            return
        reason = admission.barred(address[0], self._settings.access)
        if reason is None and ":" in address[0]:
            reason = "upstream's replicas meet their sources over IPv4 only"
        if reason is None and self._carrier is None:
            reason = "upstream's transfers need an NPU here"
        if reason is not None:
            self._refuse(end, address, reason)
            return
        until = time.monotonic() + self._settings.patience_s
        try:
            with self._lock:
                if self._closed:
                    raise queue.Full
                self._callers.put_nowait(_Caller(end, address, question, until))
        except queue.Full:
            self._refuse(end, address, "too many replicas wait here")

    def end(self, reason: str) -> bool:
        """End the transfer under way. Returns once no weights are read any more; False when that
        may still happen."""
        with self._lock:
            serving = self._serving
        return serving is None or serving.end(reason, self._settings.timeout_s)

    def close(self) -> None:
        """Refuse all who wait, and end the thread soon. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.end("the source closes")
        while True:
            try:
                caller = self._callers.get_nowait()
            except queue.Empty:
                break
            if caller is not None:
                self._refuse(caller.end, caller.address, "the source closes")
        self._callers.put(None)

    def _run(self) -> None:
        affinity.step_aside(background=True)
        while (caller := self._callers.get()) is not None:
            try:
                self._serve(caller)
            except TransportError as error:
                _log.warning("serving upstream's replica %s failed: %s", caller.name, error)
            except Exception:  # noqa: BLE001
                # The serving process must survive whatever a replica trips over.
                _log.exception("serving upstream's replica %s failed", caller.name)
            finally:
                with self._lock:
                    self._serving = None
                caller.end.close()

    def _serve(self, caller: _Caller) -> None:
        """Serve one replica, or refuse it. Raises `TransportError`."""
        offer = self._current.now
        if time.monotonic() > caller.until:
            self._refuse(caller.end, caller.address, "its turn did not come in time")
            return
        if not isinstance(offer, Offer):
            self._refuse(caller.end, caller.address, offer.reason)
            return
        if offer.available is not None:
            self._refuse(caller.end, caller.address, "the source is still loading")
            return
        refused = admission.unfit(caller.join, held(offer, self._settings.rank))
        if refused is not None:
            self._refuse(caller.end, caller.address, refused.reason)
            return
        assert self._carrier is not None, "nobody is let in without a carrier"
        serving = _Serving(caller, offer, self._settings, self._carrier, self._throttle)
        with self._lock:
            self._serving = serving
        # The offer may have been withdrawn before `end` could see this transfer.
        if self._closed or self._current.now is not offer:
            self._refuse(caller.end, caller.address, "its weights were withdrawn")
            return
        if self._answer(caller.end, JoinAccepted(caller.name)):
            serving.run()

    def _refuse(self, end: socket.socket, address: tuple[str, int], reason: str) -> None:
        self._answer(end, JoinRefused(reason))
        end.close()
        if self._lines.take(1, time.monotonic()):
            _log.warning(
                "refused vLLM Ascend's own Netloader at %s: %.*s", address[0], _MAX_QUOTE, reason
            )

    def _answer(self, end: socket.socket, answer: messages.UpstreamAnswer) -> bool:
        """Returns False when the other end is gone."""
        try:
            # No more than a socket's buffer takes, so this does not wait.
            end.settimeout(self._settings.answer_timeout_s)
            end.sendall(messages.encode_answer(answer))
        except OSError as error:
            _log.debug("an upstream replica is gone: %s", error)
            return False
        return True


class _Serving:
    """One transfer to one upstream replica."""

    def __init__(
        self,
        caller: _Caller,
        offer: Offer,
        settings: UpstreamSettings,
        carrier: OrderedCarrier,
        throttle: Throttle | None,
    ) -> None:
        self._caller = caller
        self._offer = offer
        self._settings = settings
        self._carrier = carrier
        self._throttle = throttle
        self._over = threading.Event()
        self._why = ""
        self._lock = threading.Lock()  # Guards `_group`.
        self._group: OrderedGroup | None = None
        self._reading = threading.Lock()  # Offered while the thread itself reads weights.

    def run(self) -> None:
        """Raises `TransportError`."""
        caller, settings = self._caller, self._settings
        join = caller.join
        caller.end.setblocking(False)  # For `_gone`.
        started = time.monotonic()
        _log.debug("serving upstream's replica %s", caller.name)
        store = meet_replica(
            caller.name, join.port, join.group_name, settings.rendezvous_timeout_s, self._gone
        )
        group = affinity.elsewhere(
            lambda: self._carrier.open(
                store, SOURCE_RANK, settings.rendezvous_timeout_s, self._gone
            )
        )
        with self._lock:
            self._group = group
        try:
            group.beside_the_model()
            nbytes = sum(self._send(group, one) for one in ordered(self._offer.weights))
            group.barrier(settings.timeout_s)
        finally:
            group.close()
        seconds = time.monotonic() - started
        _log.info(
            "served %s to upstream's replica %s: %s in %.2f s (%.2f GB/s)",
            self._offer.identity.names.shown,
            caller.name,
            memory.text(nbytes),
            seconds,
            nbytes / max(1e-3, seconds) / 1e9,
        )

    def end(self, reason: str, timeout_s: float) -> bool:
        """Called by other threads. Returns whether no weights are read any more."""
        self._why = reason
        self._over.set()
        with self._lock:
            group = self._group
        if group is not None:
            group.close(reason)
        if not self._reading.acquire(timeout=timeout_s):
            return False
        self._reading.release()
        return True

    def _send(self, group: OrderedGroup, one: Ordered) -> int:
        """Send one tensor. Returns its size in bytes. Raises `TransportError`."""
        if self._throttle is not None:
            self._throttle.wait(one.nbytes, self._over)
        with self._reading:
            self._check()
            data = one.read(self._carrier.device)
        # The group reads what lies in place, and stops when `end` closes it.
        self._check()
        group.send(data, self._settings.timeout_s)
        return one.nbytes

    def _check(self) -> None:
        if self._over.is_set():
            raise TransportError(self._why)

    def _gone(self) -> bool:
        """Whether the replica has hung up. It keeps its connection open until it is done."""
        if self._over.is_set():
            return True
        try:
            return not self._caller.end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def held(offer: Offer, rank: int) -> Offered:
    """What upstream's replicas would get of an offer."""
    names, built = offer.identity.names, offer.identity.built
    return Offered(
        frozenset(name for name in (names.model, names.known, names.given) if name),
        rank,
        int(built.get("tp_size", 1)),
        int(built.get("pp_size", 1)),
        _lacks(offer),
    )


def _lacks(offer: Offer) -> str:
    """What upstream's transfer would leave out, in words; empty when it is complete."""
    manifest = offer.weights.manifest
    if manifest.layout != "checkpoint":
        return "what post-processing has made of the weights"
    scalars = [one.name for one in manifest.tensors if one.kind == "parameter" and not one.shape]
    buffers = [
        one.name
        for one in manifest.tensors
        if one.kind == "buffer" and offer.computed.keys().isdisjoint((one.name, *one.aliases))
    ]
    found = [
        f"{len(some)} {what} ({some[0]} first)"
        for some, what in (
            (scalars, "parameters without dimensions"),
            (buffers, "buffers from the checkpoint"),
            (list(offer.attributes), "attributes"),
        )
        if some
    ]
    return ", ".join(found)
