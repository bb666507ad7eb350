"""Pulling a whole model from a server of vLLM Ascend's own Netloader.

The server sends what it has, in its own order, and says nothing about it: no shapes, no types, no
digests. Sizes that differ break the transfer. Everything else has to be checked afterwards, by
whoever calls this (`worker/loading/upstream.py`).

A server has one thread, which waits up to 30 minutes for a replica that it has accepted. So it is
asked only when it answers at once, and this end listens before it says where.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from netloader.errors import ProtocolError, SourceLost, TransportError
from netloader.upstream import messages
from netloader.upstream.group import REPLICA_RANK, OrderedCarrier, meet_source
from netloader.upstream.messages import JoinAccepted, JoinRefused, UpstreamAnswer, UpstreamJoin
from netloader.upstream.tensors import ordered
from netloader.weights.capture import Weights
from netmesh import PortRange, listen

_log = logging.getLogger(__name__)

_CACHES: Final = ("dram", "hbm")
"""What a server's `INT8_CACHE` must be on the main branch, where the JOIN says it. Releases do not
look at it."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What to ask a server for."""

    rank: int
    model_path: str
    tp: int
    pp: int
    draft: bool
    carrier: OrderedCarrier
    timeout_s: float
    """Seconds without progress after which the server is given up."""
    rendezvous_timeout_s: float
    """Seconds until the server must have come to the process group."""
    ports: PortRange | None = None
    """Where this end may listen; None: anywhere."""


def pull_upstream(
    endpoint: str,
    weights: Weights,
    request: UpstreamRequest,
    progress: Callable[[int], object] = lambda nbytes: None,
) -> None:
    """Fill the parameters of `weights`, in the order of the manifest. `progress` is told the bytes
    of each.

    Raises `SourceLost`. Once this returns or raises, nothing writes to the tensors any more.
    """
    reasons: list[str] = []
    for int8_cache in _CACHES:
        with _connect(endpoint, request.timeout_s) as control:
            listener = _listen(endpoint, control, request.ports)
            with listener:
                join = UpstreamJoin(
                    request.rank,
                    request.model_path,
                    request.tp,
                    request.pp,
                    int(listener.getsockname()[1]),
                    "netloader_draft" if request.draft else "netloader",
                    int8_cache,
                )
                answer = _ask(endpoint, control, join, request.timeout_s)
                match answer:
                    case JoinAccepted(processed=False):
                        _receive(
                            endpoint, control, listener, join, answer, weights, request, progress
                        )
                        return
                    case JoinAccepted():
                        raise SourceLost(
                            endpoint,
                            "sends weights as post-processing left them: set its "
                            "INT8_CACHE to dram or hbm",
                        )
                    case JoinRefused(reason):
                        reasons.append(reason)
                    case _:
                        raise SourceLost(endpoint, "is a source of Netloader Mesh")
        if "int8_cache" not in reasons[-1]:
            break
    raise SourceLost(endpoint, f"refused: {reasons[-1]}")


def _connect(endpoint: str, timeout_s: float) -> socket.socket:
    host, _, port = endpoint.rpartition(":")
    if host.startswith("["):
        raise SourceLost(endpoint, "upstream's servers are reached over IPv4 only")
    try:
        return socket.create_connection((host, int(port)), timeout_s)
    except (OSError, ValueError, OverflowError) as error:
        raise SourceLost(endpoint, f"cannot connect: {error}") from None


def _listen(endpoint: str, control: socket.socket, ports: PortRange | None) -> socket.socket:
    """Where the server will come: the address by which it sees this worker."""
    try:
        return listen(control.getsockname()[0], None, ports, backlog=16)
    except OSError as error:
        raise SourceLost(endpoint, f"cannot listen for it: {error}") from None


def _ask(
    endpoint: str, control: socket.socket, join: UpstreamJoin, timeout_s: float
) -> UpstreamAnswer:
    deadline = time.monotonic() + timeout_s
    data = b""
    try:
        control.sendall(messages.encode_question(join))
        while not messages.is_whole(data):
            control.settimeout(max(0.001, deadline - time.monotonic()))
            more = control.recv(messages.MAX_ANSWER + 1 - len(data))
            if not more:
                raise SourceLost(endpoint, "hung up when it was asked")
            data += more
            if len(data) > messages.MAX_ANSWER:
                # Only shapes are so long, and they belong to the other layout.
                raise SourceLost(endpoint, "sends weights as post-processing left them")
        return messages.decode_answer(data)
    except TimeoutError:
        raise SourceLost(endpoint, f"did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise SourceLost(endpoint, f"the connection broke: {error}") from None
    except ProtocolError as error:
        raise SourceLost(endpoint, f"gave no answer of upstream's: {error}") from None


def _receive(
    endpoint: str,
    control: socket.socket,
    listener: socket.socket,
    join: UpstreamJoin,
    answer: JoinAccepted,
    weights: Weights,
    request: UpstreamRequest,
    progress: Callable[[int], object],
) -> None:
    control.setblocking(False)

    def gone() -> bool:
        """Whether the server has hung up. It keeps the connection open until it is done."""
        try:
            return not control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    try:
        store = meet_source(listener, answer.name, join.group_name, request.rendezvous_timeout_s)
        group = request.carrier.open(store, REPLICA_RANK, request.rendezvous_timeout_s, gone)
        try:
            for one in ordered(weights):
                buffer = one.buffer()
                group.recv(buffer, request.timeout_s)
                one.fill(buffer)
                progress(one.nbytes)
            try:
                group.barrier(request.timeout_s)
            except TransportError as error:
                # The server waits for us there, but everything has come.
                _log.info("source %s did not see the end of the transfer: %s", endpoint, error)
        finally:
            group.close()
    except TransportError as error:
        raise SourceLost(endpoint, str(error)) from None
