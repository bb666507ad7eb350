"""The server of the live map in a thread of this process, and a client that is only sockets."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from tests.fastest import HANG_S

from mesh_inspect.watching import Sight
from mesh_inspect.web.access import WebAccess
from mesh_inspect.web.api import application
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.gate import WebGate
from mesh_inspect.web.live import Live
from mesh_inspect.web.playback import Playback
from mesh_inspect.web.server import listening, serve
from mesh_inspect.web.settings import WebSettings
from netmesh import MeshSettings

MESH = "served"
COOKIE = "mesh-inspect-test"


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class ToldEvent:
    """A server-sent event."""

    id: str
    name: str
    data: Any


class ServedMap:
    """A server that listens, and what asks it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def own(self) -> dict[str, str]:
        """What the page's own requests have."""
        return {"Origin": f"http://{self.host}", "Content-Type": "application/json"}

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, found, answer.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=HANG_S)

    @contextmanager
    def events(
        self, headers: Mapping[str, str] | None = None, *, packed: bool = False
    ) -> Iterator[Iterator[ToldEvent]]:
        """The stream of events. Comments are left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        try:
            wanted = {"Accept-Encoding": "gzip"} if packed else {}
            connection.request("GET", "/api/events", headers=wanted | dict(headers or {}))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            assert answer.getheader("content-type", "").startswith("text/event-stream")
            yield _told(answer, packed=packed)
        finally:
            connection.close()


def _told(answer: http.client.HTTPResponse, *, packed: bool) -> Iterator[ToldEvent]:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS) if packed else None
    text = b""
    while part := answer.read1(1 << 20):
        text += part if unpacker is None else unpacker.decompress(part)
        while b"\n\n" in text:
            event, text = text.split(b"\n\n", 1)
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
            if b"event" in fields:
                yield ToldEvent(
                    fields[b"id"].decode(),
                    fields[b"event"].decode(),
                    orjson.loads(fields[b"data"]),
                )


class Screen:
    """A mesh that is what a test says, look by look."""

    def __init__(self, sight: Sight | Exception) -> None:
        self._shown = sight
        self._lock = threading.Condition()
        self.looks = 0

    def show(self, sight: Sight | Exception) -> None:
        with self._lock:
            self._shown = sight

    def look(self) -> Sight:
        with self._lock:
            self.looks += 1
            self._lock.notify_all()
            if isinstance(self._shown, Exception):
                raise self._shown
            return self._shown

    def looked(self, times: int) -> None:
        """Wait for so many more looks."""
        with self._lock:
            wanted = self.looks + times
            assert self._lock.wait_for(lambda: self.looks >= wanted, HANG_S)


@contextmanager
def served(
    scene: Screen | Callable[[Broadcast, WebSettings], Playback],
    settings: WebSettings,
    token: str | None = None,
    *,
    send_buffer: int | None = None,
    port: int = 0,
    mesh: str = MESH,
) -> Iterator[ServedMap]:
    """A server that shows this, on that port of loopback or a free one. `send_buffer`: bytes that
    the kernel keeps of an answer."""
    listener = listening("127.0.0.1", port)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    port = listener.getsockname()[1]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    problems: list[BaseException] = []

    async def run() -> None:
        broadcast = Broadcast(mesh, settings)
        shown = (
            Live(scene.look, broadcast, lambda: 1.79e9, settings)
            if isinstance(scene, Screen)
            else scene(broadcast, settings)
        )
        steer = shown.steer if isinstance(shown, Playback) else None

        async def watch() -> None:
            running = asyncio.create_task(shown.run())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            running.cancel()
            stopping.cancel()
            if not running.cancelled() and running.done():
                running.result()

        app = WebGate(
            application(shown, broadcast, settings, MeshSettings(), steer), WebAccess(token, COOKIE)
        )
        await serve(app, listener, broadcast, watch(), settings)

    def target() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            problems.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=target, name="served")
    thread.start()
    try:
        yield ServedMap(port)
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(HANG_S)
        assert not thread.is_alive(), "the server does not end"
    if problems:
        raise problems[0]
