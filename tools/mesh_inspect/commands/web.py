"""`mesh-inspect web`: the live map in a browser."""

from __future__ import annotations

import asyncio
import secrets
import socket
import webbrowser
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import asks_mesh, subcommand
from mesh_inspect.recording.errors import RecordingError
from mesh_inspect.recording.reader import Recording
from mesh_inspect.view.words import human_bytes
from mesh_inspect.watching import Lookout
from mesh_inspect.web.access import MIN_TOKEN, WebAccess, needs_token
from mesh_inspect.web.api import Scene, Steer, application
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.chronicle import Chronicle
from mesh_inspect.web.gate import WebGate
from mesh_inspect.web.live import Live
from mesh_inspect.web.playback import Playback
from mesh_inspect.web.server import listening, serve
from mesh_inspect.web.settings import DEFAULT_PORT, WebSettings
from netmesh import SettingsError

_LARGE: Final = 50_000_000
"""Bytes of a recording whose reading takes seconds."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the server shows, and what keeps it going."""

    scene: Scene
    run: Coroutine[None, None, None]
    steer: Steer | None = None


@subcommand(
    "web --open",
    "web --seed 10.0.0.1 --port 9000",
    "web --replay night.rec",
    "web --host 10.0.0.1 --token-file web.token",
)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Default: 8765, or the next that is free.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Readers need the token in it. Default: none on loopback, elsewhere a new one.",
)
@click.option("--open", "opens", is_flag=True, help="Show it in this host's browser.")
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show what `mesh-inspect record` wrote, and no mesh.",
)
@asks_mesh
def command(
    inquiry: Inquiry,
    host: str,
    port: int | None,
    token_file: Path | None,
    opens: bool,
    replay: Path | None,
) -> InspectExit:
    """Show a live map of the mesh in a browser.

    On loopback whoever has an account on this host may look. Elsewhere a token is needed: it is in
    the address that is printed. The connection is not encrypted, so over a network use `ssh -L`.
    """
    settings = WebSettings()
    token = _token(host, token_file)
    try:
        recording, chronicle = _read(replay)
    except (RecordingError, OSError) as error:
        say(str(error))
        return InspectExit.FAILED
    try:
        listener = listening(host, port)
    except OSError as error:
        raise SettingsError(
            "--host, --port",
            f"{host}:{DEFAULT_PORT if port is None else port}",
            f"an address of this host and a free port ({error.strerror})",
        ) from error
    mesh = inquiry.settings.name if recording is None else recording.head.mesh
    url = _url(listener, "" if token is None or token_file is not None else f"?token={token}")
    print(f"mesh {mesh} at {url}", flush=True)
    if opens:
        webbrowser.open(url)

    async def serving() -> None:
        broadcast = Broadcast(mesh, settings)
        with _scene(inquiry, broadcast, settings, recording, chronicle) as shown:
            app = application(shown.scene, broadcast, settings, inquiry.settings, shown.steer)
            access = WebAccess(token, f"mesh-inspect-{listener.getsockname()[1]}")
            await serve(WebGate(app, access), listener, broadcast, shown.run, settings)

    try:
        asyncio.run(serving())
    except RecordingError as error:
        say(str(error))
        return InspectExit.FAILED
    return InspectExit.OK


@contextmanager
def _scene(
    inquiry: Inquiry,
    broadcast: Broadcast,
    settings: WebSettings,
    recording: Recording | None,
    chronicle: Chronicle,
) -> Iterator[_Shown]:
    """What is shown: the mesh, or the recording if there is one."""
    means = inquiry.means
    if recording is not None:
        playback = Playback(
            recording, tuple(chronicle.happened), broadcast, means.monotonic, settings
        )
        yield _Shown(playback, playback.run(), playback.steer)
        return
    with inquiry.observer() as observer:
        lookout = Lookout(
            observer,
            timeout_s=inquiry.timeout_s,
            monotonic=means.monotonic,
            wall_s=means.wall_s,
        )
        live = Live(lookout.look, broadcast, means.wall_s, settings)
        # The first page finds the mesh as it is.
        live.want()
        yield _Shown(live, live.run())


def _read(replay: Path | None) -> tuple[Recording | None, Chronicle]:
    chronicle = Chronicle()
    if replay is not None and (nbytes := replay.stat().st_size) >= _LARGE:
        say(f"reading {human_bytes(nbytes)} of {replay}")
    return (None if replay is None else Recording(replay, chronicle.add)), chronicle


def _token(host: str, file: Path | None) -> str | None:
    """The token that readers need; None where loopback alone is trusted."""
    if file is None:
        return secrets.token_urlsafe(32) if needs_token(host) else None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingsError("--token-file", str(file), f"a file with a token: {error}") from error
    if len(token) < MIN_TOKEN or not token.isprintable():
        raise SettingsError("--token-file", str(file), f"{MIN_TOKEN} or more printable characters")
    return token


def _url(listener: socket.socket, query: str) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}"
