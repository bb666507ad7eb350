"""The server's socket, and its life from the first look to Ctrl-C."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.connections import bounded
from mesh_inspect.web.settings import DEFAULT_PORT, WebSettings

_TRIES: Final = 20
"""Ports from the usual one on, where the operator names none."""


def listening(host: str, port: int | None) -> socket.socket:
    """A socket at that port, or at the first free one from the usual on. Raises OSError."""
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _TRIES) if port is None else (port,)
    problem = OSError()
    for each in ports:
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, each, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(128)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            problem = error
            continue
        listener.setblocking(False)
        return listener
    raise problem


class _MapServer(uvicorn.Server):
    """Ends the streams of events first: nothing else would, and uvicorn waits for them."""

    def __init__(self, config: uvicorn.Config, broadcast: Broadcast) -> None:
        super().__init__(config)
        self._broadcast = broadcast

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._broadcast.close()
        await super().shutdown(sockets)


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    broadcast: Broadcast,
    watch: Coroutine[None, None, None],
    settings: WebSettings,
) -> None:
    """Serve until a signal. `watch` goes on for ever; what it raises ends the server, and is raised
    here."""
    config = uvicorn.Config(
        app,
        http=bounded(settings),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=settings.header_bytes,
    )
    server = _MapServer(config, broadcast)
    watching = asyncio.create_task(watch)
    watching.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        await server.serve(sockets=[listener])
    finally:
        if not watching.done():
            watching.cancel()
        done = await asyncio.gather(watching, return_exceptions=True)
    if isinstance(done[0], BaseException) and not isinstance(done[0], asyncio.CancelledError):
        raise done[0]
