"""Upstream's two ends as its documents and code describe them, over Gloo, and what they need."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from tests.free_ports import free_port
from torch._C._distributed_c10d import Store
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore

from netloader.errors import TransportError
from netloader.upstream.group import OrderedGroup
from netloader.upstream.tensors import ordered
from netloader.weights.capture import Weights

LIMIT_S = 20.0
"""How long anything may take on a busy machine."""


class GlooOrderedGroup:
    """`OrderedGroup` over Gloo."""

    def __init__(self, store: Store, rank: int, timeout_s: float) -> None:
        self._peer = 1 - rank
        try:
            self._group: Any = ProcessGroupGloo(store, rank, 2, timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise TransportError(str(error)) from None
        self._closed = threading.Event()

    def beside_the_model(self) -> None:
        pass

    def send(self, data: torch.Tensor, timeout_s: float) -> None:
        self._wait(lambda: self._group.send([data], self._peer, 0), timeout_s)

    def recv(self, data: torch.Tensor, timeout_s: float) -> None:
        self._wait(lambda: self._group.recv([data], self._peer, 0), timeout_s)

    def barrier(self, timeout_s: float) -> None:
        self._wait(lambda: self._group.barrier(), timeout_s)

    def close(self, reason: str = "") -> None:
        self._closed.set()
        self._group.abort()

    def _wait(self, begin: Callable[[], Any], timeout_s: float) -> None:
        if self._closed.is_set():
            raise TransportError("the group is closed")
        try:
            begin().wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise TransportError(str(error).splitlines()[0]) from None


class GlooCarrier:
    """`OrderedCarrier` over Gloo."""

    device = torch.device("cpu")

    def open(
        self, store: Store, rank: int, timeout_s: float, gone: Callable[[], bool]
    ) -> OrderedGroup:
        return GlooOrderedGroup(store, rank, timeout_s)


@dataclass
class UpstreamReplica:
    """Asks a server as upstream's `ElasticClient` does, and receives as its `P2PLoad` does."""

    join: dict[str, Any]
    port: int = field(default_factory=free_port)

    def ask(self, address: tuple[str, int]) -> tuple[socket.socket, dict[str, Any]]:
        """One connection, one send, one `recv` of 1,024 bytes."""
        end = socket.create_connection(address, LIMIT_S)
        end.send(json.dumps({"label": "JOIN", "content": self.join | {"port": self.port}}).encode())
        answer: dict[str, Any] = json.loads(end.recv(1024).decode("utf-8"))
        return end, answer

    def pull(self, address: tuple[str, int], weights: Weights) -> None:
        """Fill `weights`. Raises `ConnectionError` when the server refuses."""
        end, answer = self.ask(address)
        with end:
            if answer["label"] != "JOIN_ACK":
                raise ConnectionError(answer["content"])
            group = self.open(answer["content"]["name"])
            try:
                for one in ordered(weights):
                    if one.described.shape:
                        buffer = one.buffer()
                        group.recv(buffer, LIMIT_S)
                        one.fill(buffer)
                group.barrier(LIMIT_S)
            finally:
                group.close()

    def open(self, name: str) -> OrderedGroup:
        host, timeout = name.split(":")[0], timedelta(seconds=LIMIT_S)
        store = TCPStore(host, self.port, 2, True, timeout, multi_tenant=True)
        group_name = self.join.get("group_name", "netloader")
        prefixed = PrefixStore(f"tcp://{host}:{self.port}/{group_name}/", store)
        return GlooOrderedGroup(prefixed, 0, LIMIT_S)


class UpstreamServer:
    """Serves one connection after the other, as upstream's `ElasticServer` does: a message that is
    not UTF-8 ends its thread for good."""

    def __init__(self, weights: Weights, expects: dict[str, Any]) -> None:
        """`expects` is what a JOIN must say to be served."""
        self.weights = weights
        self.expects = expects
        self.heard: list[bytes] = []
        self.on_send: Callable[[int, torch.Tensor], torch.Tensor] = lambda number, data: data
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(LIMIT_S)

    def _run(self) -> None:
        while True:
            try:
                end, address = self.listener.accept()
            except OSError:
                return
            try:
                self._handle(end, address)
            except UnicodeDecodeError as error:
                self.failed = error
                return

    def _handle(self, end: socket.socket, address: tuple[str, int]) -> None:
        with end:
            data = end.recv(1024)
            self.heard.append(data)
            text = data.decode("utf-8")
            if not text:
                return
            message = json.loads(text)
            content = message.get("content")
            fits = message.get("label") == "JOIN" and self.expects.items() <= content.items()
            name = f"{address[0]}:{address[1]}"
            refusal = {"label": "JOIN_NACK", "content": f"no: {message}"}
            accepted = {"label": "JOIN_ACK", "content": {"name": name}}
            answer = self.answer(accepted) if fits else refusal
            end.send(json.dumps(answer).encode())
            if answer != accepted:
                return
            try:
                self._send(name, content)
            except (RuntimeError, TransportError):
                return  # Upstream logs it and serves the next.

    def _send(self, name: str, content: dict[str, Any]) -> None:
        host, port, timeout = name.split(":")[0], content["port"], timedelta(seconds=LIMIT_S)
        store = TCPStore(host, port, 2, False, timeout)
        group_name = content.get("group_name", "netloader")
        prefixed = PrefixStore(f"tcp://{host}:{port}/{group_name}/", store)
        group = GlooOrderedGroup(prefixed, 1, LIMIT_S)
        try:
            for one in ordered(self.weights):
                data = one.read(torch.device("cpu"))
                group.send(self.on_send(one.number, data), LIMIT_S)
            group.barrier(LIMIT_S)
        finally:
            group.close()
