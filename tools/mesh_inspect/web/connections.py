"""Connections that cannot be held for nothing: uvicorn's own, with limits of time and number.

uvicorn waits for ever for the rest of a request, and for a peer that takes nothing of an answer.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from mesh_inspect.web.settings import WebSettings


def bounded(settings: WebSettings) -> type[H11Protocol]:
    """The class of a server's connections."""

    class BoundedConnection(H11Protocol):
        """One connection."""

        _waits: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            super().connection_made(transport)
            if len(self.connections) > settings.connections:
                transport.abort()
                return
            self._await_request()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.cycle is not None and not self.cycle.response_complete and self._waits:
                self._waits.cancel()
                self._waits = None

        def on_response_complete(self) -> None:
            self._await_request()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(settings.stuck_s, self.transport.abort)

        def resume_writing(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None
            super().resume_writing()

        def _await_request(self) -> None:
            if self._waits is None:
                self._waits = self.loop.call_later(settings.header_s, self.transport.abort)

        def _cancel(self) -> None:
            for timer in (self._waits, self._stuck):
                if timer is not None:
                    timer.cancel()

    return BoundedConnection
