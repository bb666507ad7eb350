"""Upstream's algorithm, on Gloo: how vLLM Ascend's Netloader loads a model from a peer.

This is our own code for the algorithm of vLLM Ascend's `model_loader/netloader`, with no line taken
from it. Reproduced:

- a TCP connection, `JOIN` with device, model, parallel sizes and a port that was free a moment ago,
  `JOIN_ACK` with the name `ip:port` under which the source sees the replica, and the shape of every
  tensor (`transfer_shapes`, as with the default `INT8_CACHE` "no"), both as plain JSON;
- a process group: the replica, rank 0, hosts the TCPStore on the port that it named. The source,
  rank 1, begins to connect as soon as it has written its answer. If the replica comes first, it
  waits; if the source does, it tries again with torch's pauses;
- parameters, then buffers, each memory once, in the model's order: one `send` and one `recv` per
  tensor, with tag 0, one after the other;
- a barrier, after which the group is closed;
- one replica at a time, served in the thread that accepts.

Not reproduced: HCCL. There `wait` orders a stream and blocks no thread, so the processor queues the
next tensor meanwhile; on Gloo `wait` blocks. Casts to and from FRACTAL_NZ and copies of int8
originals have no counterpart on a CPU. Attributes of modules that hold derived tensors do not exist
in the models here. Registration in torch's global tables (a few dict entries) is left out, and
the barrier is called on the group itself for that.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

import torch
from torch import nn
from torch._C._distributed_c10d import PrefixStore, ProcessGroup, ProcessGroupGloo
from torch.distributed.rendezvous import rendezvous

_REPLICA: Final = 0
_SOURCE: Final = 1
_GROUP_NAME: Final = "netloader"
_TIMEOUT: Final = timedelta(seconds=300)
_CLIENT_TIMEOUT_S: Final = 60.0
_JOIN_BYTES: Final = 1024


class UpstreamError(Exception):
    """The source declined, or has another model."""


class UpstreamSource:
    """Sends a model to one replica after the other."""

    def __init__(self, host: str, model: nn.Module) -> None:
        """Listen on a free port of `host`."""
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, 0))
        self._listener.listen(256)
        self._host = host
        self._items = list(_items(model))
        self._shapes = {name: list(tensor.shape) for name, tensor in self._items}
        self.endpoint = f"{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, name="upstream-source", daemon=True).start()

    def close(self) -> None:
        """Take no further replica."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection, address)

    def _answer(self, connection: socket.socket, address: tuple[str, int]) -> None:
        join = json.loads(connection.recv(_JOIN_BYTES))
        if join["label"] != "JOIN":
            connection.sendall(json.dumps({"label": "JOIN_NACK", "content": "no JOIN"}).encode())
            return
        name = f"{address[0]}:{address[1]}"
        content = {"name": name, "transfer_shapes": self._shapes}
        connection.sendall(json.dumps({"label": "JOIN_ACK", "content": content}).encode())
        group = _group(name.split(":")[0], join["content"]["port"], _SOURCE, self._host)
        for _, tensor in self._items:
            group.send([tensor], _REPLICA, 0).wait()
        group.barrier().wait()


def load(source: str, model: nn.Module) -> None:
    """Fill `model` from the source at `ip:port`. Raises `UpstreamError`, `OSError`, ..."""
    host, port = source.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.connect((host, int(port)))
        connection.settimeout(_CLIENT_TIMEOUT_S)
        mine = str(connection.getsockname()[0])
        meeting = _free_port()
        content = {"device_id": 0, "model_path": "model", "tp": 1, "pp": 1, "port": meeting}
        content |= {"group_name": _GROUP_NAME, "int8_cache": "no"}
        connection.send(json.dumps({"label": "JOIN", "content": content}).encode())
        answer = _read_json(connection)
        if answer["label"] != "JOIN_ACK":
            raise UpstreamError(str(answer["content"]))
        shapes = {key: tuple(shape) for key, shape in answer["content"]["transfer_shapes"].items()}
        items = list(_items(model))
        if {name: tuple(tensor.shape) for name, tensor in items} != shapes:
            raise UpstreamError("the source has other tensors")
        group = _group(answer["content"]["name"].split(":")[0], meeting, _REPLICA, mine)
        for _, tensor in items:
            group.recv([tensor], _SOURCE, 0).wait()
        group.barrier().wait()


def _items(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    seen: set[int] = set()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.numel() > 0 and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            yield name, tensor.detach()


def _group(host: str, port: int, rank: int, mine: str) -> Any:
    """A group of two ranks that meet at a TCPStore which rank 0 hosts."""
    method = f"tcp://{host}:{port}"
    store, rank, size = next(rendezvous(method, rank, 2, timeout=_TIMEOUT))
    store.set_timeout(_TIMEOUT)
    prefixed = PrefixStore(f"{method}/{_GROUP_NAME}/", store)
    group: Any = ProcessGroup(prefixed, rank, size)
    group._set_default_backend(ProcessGroup.BackendType.GLOO)
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = _TIMEOUT
    options._devices = [ProcessGroupGloo.create_device(hostname=mine)]
    backend = ProcessGroupGloo(prefixed, rank, size, options)
    backend._set_sequence_number_for_group()
    group._register_backend(torch.device("cpu"), ProcessGroup.BackendType.GLOO, backend)
    group._set_group_name(_GROUP_NAME)
    return group


def _free_port() -> int:
    """A free port, found as upstream does: with luck it is still free when used."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _read_json(connection: socket.socket) -> Any:
    data = bytearray()
    while part := connection.recv(65536):
        data += part
        if data.rstrip().endswith(b"}"):
            try:
                return json.loads(data)
            except json.JSONDecodeError:
                continue
    raise UpstreamError("the source closed the connection before its answer was complete")
