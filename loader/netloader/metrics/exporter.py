"""Where a worker's metrics can be read.

- `METRICS_PORT` plus the rank, over HTTP, if the operator sets it.
- The engine's own `/metrics`, if the engine's processes share a directory for metrics
  (`PROMETHEUS_MULTIPROC_DIR`): prometheus-client then writes into files there by itself, and the
  engine's front end adds them up.

Without either nothing is counted. A port that is taken, or a folder that cannot be written, costs
a warning and the metrics, not the start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from netloader.metrics.sampler import Look, Sampler
from netloader.system import affinity
from netloader.telemetry import SILENT, Telemetry
from netmesh import Door

_log = logging.getLogger(__name__)

SHARED_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's variable; vLLM sets it when it starts several API servers."""

MAX_REQUESTS: Final = 8
"""Requests at once. Prometheus makes one; a further one is hung up on."""

REQUEST_S: Final = 5.0
"""Seconds that a client may be silent in the middle of a request, or while it reads the answer."""

WHOLE_S: Final = 15.0
"""Seconds that a whole request may take, however little of it comes at a time."""

_NO_DESCRIPTOR_S: Final = 0.2
"""Seconds until a connection is accepted again for which there was no descriptor."""


class Export:
    """A worker's metrics, until it closes."""

    def __init__(
        self,
        telemetry: Telemetry = SILENT,
        endings: tuple[Callable[[], object], ...] = (),
        port: int | None = None,
    ) -> None:
        self.telemetry = telemetry
        """To be told what happens."""
        self.port = port
        """Where metrics can be read over HTTP; None when they cannot."""
        self._endings = endings

    def close(self) -> None:
        """Count nothing more, and listen no longer."""
        for end in self._endings:
            end()


def start(
    address: tuple[str, int] | None,
    look: Look,
    environ: Mapping[str, str] = os.environ,
    request_s: float = REQUEST_S,
    whole_s: float = WHOLE_S,
) -> Export:
    """Count and export, as far as the operator wants it. `address` are host and port."""
    shared = environ.get(SHARED_DIRECTORY)
    if address is None and not shared:
        return Export()
    try:
        # Not before: prometheus-client decides at its import whether there is a shared directory.
        from netloader.metrics.catalogue import Metrics

        metrics = Metrics()
    except (OSError, ImportError) as error:
        _log.warning(
            "no metrics: %s (%s=%s must be a folder that this worker can write)",
            error,
            SHARED_DIRECTORY,
            shared,
        )
        return Export()
    server = _listen(address, metrics.registry, request_s, whole_s) if address is not None else None
    if server is None and not shared:
        return Export()
    endings: list[Callable[[], object]] = [Sampler(look, metrics).stop]
    if server is not None:
        endings.append(server.stop)
    if shared:
        endings.append(lambda: _withdraw(shared))
    return Export(metrics, tuple(endings), server.server_port if server is not None else None)


def _listen(
    address: tuple[str, int], registry: Any, request_s: float, whole_s: float
) -> _MetricsServer | None:
    from prometheus_client import make_wsgi_app

    try:
        server = _MetricsServer(address, make_wsgi_app(registry), request_s, whole_s)
    except OSError as error:
        _log.warning(
            "no metrics at %s port %d: %s; set METRICS_PORT to a port that is free, and "
            "METRICS_HOST to an address of this host",
            *address,
            error.strerror or error,
        )
        return None
    _log.info("metrics at http://%s:%d/metrics", address[0], server.server_port)
    return server


def _withdraw(shared: str) -> None:
    """Take back what is true of live processes only: vLLM does that for itself alone."""
    from prometheus_client import multiprocess

    try:
        multiprocess.mark_process_dead(os.getpid(), shared)  # type: ignore[no-untyped-call]
    except OSError as error:
        _log.debug("the files of live metrics stay behind: %s", error)


class _MetricsHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        _log.debug(format, *args)


class _MetricsServer(WSGIServer):
    """Answers a bounded number of requests at once, each in a thread of its own."""

    def __init__(
        self, address: tuple[str, int], app: Any, request_s: float, whole_s: float
    ) -> None:
        """Raises `OSError`."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _MetricsHandler)
        self.set_app(app)
        self._request_s = request_s
        self._whole_s = whole_s
        self._places = threading.BoundedSemaphore(MAX_REQUESTS)
        self._since: dict[socket.socket, float] = {}
        """Requests that are being answered, and when they came. Changed in single steps."""
        self._stopping = threading.Event()
        self._door = Door(self.socket)
        self._thread = threading.Thread(
            target=self.serve_forever, name=f"{affinity.OURS}metrics-http", daemon=True
        )
        self._thread.start()

    def server_bind(self) -> None:
        """Bind without asking DNS for this host's name, as the base class would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def get_request(self) -> Any:
        """Accept a connection. Raises `OSError`."""
        try:
            return super().get_request()
        except OSError:
            # It still waits where no descriptor is left, and would be tried again without a pause.
            self._stopping.wait(_NO_DESCRIPTOR_S)
            raise

    def service_actions(self) -> None:
        """Hang up on those whose requests do not end. Called twice a second or more."""
        late = time.monotonic() - self._whole_s
        for request in [request for request, since in list(self._since.items()) if since < late]:
            with contextlib.suppress(OSError):  # It has ended meanwhile.
                request.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        threading.Thread(
            target=self._answer,
            args=(request, client_address),
            name=f"{affinity.OURS}metrics-request",
            daemon=True,
        ).start()

    def _answer(self, request: Any, client_address: Any) -> None:
        affinity.step_aside(background=True)
        request.settimeout(self._request_s)
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            _log.debug("%s left in the middle of a request: %s", client_address, error)
        finally:
            del self._since[request]
            self.shutdown_request(request)
            self._places.release()

    def stop(self) -> None:
        """Listen no longer."""
        self._stopping.set()
        self.shutdown()
        self._thread.join()
        self._door.close()
