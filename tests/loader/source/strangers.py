"""Strangers at the ports of a process: a bounded number a second of each kind, at all its ports.

Those with the key are real clients of ZeroMQ that send what no peer sends.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

import zmq
from tests.loader.ports import listening_ports

from netmesh import SocketSecurity

_GREETING: Final = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0CURVE".ljust(64, b"\0")
_TLS: Final = bytes.fromhex("16030100c8010000c40303") + bytes(193)
_SAID: Final[dict[str, bytes]] = {
    "silent": b"",
    "slow": b"\xff",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    "tls": _TLS,
    "half zmtp": _GREETING[:11],
    "whole zmtp": _GREETING,
    "json": b'{"label":"JOIN","content":{',
    "reset": b"",
    "rubbish": b"",
}
_TURN_S: Final = 0.1
_BURST_EVERY: Final = 50
_BURST: Final = 300
"""Connections that come at once to one port, every so many turns."""
_KEYED: Final = 4
"""Clients with the key at each port that has one."""


class Strangers:
    """Comes to all listening ports of a process, until stopped."""

    def __init__(
        self, pid: int, guarded: dict[int, SocketSecurity], *, per_s: int = 100, held: int = 600
    ) -> None:
        """`guarded`: ports that ask for a key, each with what a client needs there. `per_s`: new
        connections a second. `held`: how many are kept open at most."""
        self.came: Counter[str] = Counter()
        """Connections so far, by kind."""
        self.ports: set[int] = set()
        """Ports that were found open so far."""
        self._pid = pid
        self._guarded = guarded
        self._per_turn = max(1, int(per_s * _TURN_S))
        self._most = held
        self._held: deque[tuple[str, socket.socket]] = deque()
        self._random = random.Random(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="strangers")
        self._error: BaseException | None = None

    def __enter__(self) -> Strangers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with zmq.Context[zmq.Socket[bytes]]() as context:
                self._come(context)
        except BaseException as error:  # noqa: BLE001 - the thread that stops this one raises it
            self._error = error

    def _come(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        clients = [
            self._client(context, port, security)
            for port, security in self._guarded.items()
            for _ in range(_KEYED)
        ]
        kinds = list(_SAID)
        turn = turns = 0
        while not self._over.wait(_TURN_S):
            ports = sorted(listening_ports(self._pid))
            self.ports |= set(ports)
            for _ in range(self._per_turn):
                turn += 1
                self._connect(kinds[turn % len(kinds)], ports[turn // len(kinds) % len(ports)])
            turns += 1
            if not turns % _BURST_EVERY:
                port = ports[turns // _BURST_EVERY % len(ports)]
                for number in range(_BURST):
                    self._connect(kinds[number % len(kinds)], port)
            self._go_on()
            for client in clients:
                self._misbehave(client)
        for client in clients:
            client.close()
        for _, one in self._held:
            one.close()

    def _connect(self, kind: str, port: int) -> None:
        one = socket.socket()
        one.setblocking(False)
        if kind == "reset":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.connect_ex(("127.0.0.1", port))
        self.came[kind] += 1
        self._held.append((kind, one))
        while len(self._held) > self._most:
            self._held.popleft()[1].close()

    def _go_on(self) -> None:
        """Say what each kind says, byte for byte where it is slow, and come again where cut."""
        with selectors.DefaultSelector() as selector:
            for kind, one in self._held:
                selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE, kind)
            for key, _ in selector.select(0):
                one, kind = key.fileobj, str(key.data)
                assert isinstance(one, socket.socket)
                said = _SAID[kind]
                if kind == "rubbish":
                    said = self._random.randbytes(self._random.randrange(1, 200))
                try:
                    if said:
                        one.send(said)
                except OSError:
                    pass  # it was cut, as it should be; it leaves when its turn has come
        self._held = deque((kind, one) for kind, one in self._held if not self._leaves(kind, one))

    def _leaves(self, kind: str, one: socket.socket) -> bool:
        try:
            ends = kind == "reset" or one.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            ends = True
        if ends:
            one.close()
        return ends

    def _client(
        self, context: zmq.Context[zmq.Socket[bytes]], port: int, security: SocketSecurity
    ) -> zmq.Socket[bytes]:
        client: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.SNDHWM, 8)
        security.apply_client(client)
        client.connect(f"tcp://127.0.0.1:{port}")
        return client

    def _misbehave(self, client: zmq.Socket[bytes]) -> None:
        frames: Sequence[Callable[[], bytes]] = (
            lambda: b"",
            lambda: self._random.randbytes(self._random.randrange(2000)),
            lambda: b'{"type":"hello"' + b"[" * 500,
        )
        try:
            client.send_multipart(
                [frame() for frame in frames][: self._random.randrange(1, 4)], zmq.DONTWAIT
            )
            self.came["with key"] += 1
            client.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            pass  # nobody reads as fast as that, or answers it
