"""A terminal that is handed over to the screen, and taken back however the screen ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry
from mesh_inspect.top.app import Top
from mesh_inspect.top.looks import looking
from mesh_inspect.watching import Sight

_SIGNALLED: Final = 128
"""Added to a signal's number, as shells do for a process that a signal ended."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def why_not(
    environ: Mapping[str, str], reads: TextIO | None = None, writes: TextIO | None = None
) -> str:
    """Why there can be no screen here; empty where there can. Asked of standard input and output
    unless others are given."""
    for name, stream in (
        ("input", sys.stdin if reads is None else reads),
        ("output", sys.stdout if writes is None else writes),
    ):
        if stream is None or stream.closed or not stream.isatty():
            return f"standard {name} is not a terminal"
    if (kind := environ.get("TERM", "")) in ("", "dumb"):
        return f"a terminal of the kind {kind or 'unknown'!r} has no screen"
    return ""


def run(inquiry: Inquiry, *, mouse: bool) -> int:
    """Show the screen until somebody ends it, or a signal does. Returns the exit status; after a
    fault of the screen's own that is 1, and the trace stands on stderr. Raises SettingsError."""
    app = Top(inquiry.settings, inquiry.means.monotonic)
    with looking(inquiry, Posting(app)):
        return asyncio.run(_run(app, mouse=mouse))


class Posting:
    """Hands on to the screen what its thread of looks finds."""

    def __init__(self, app: Top) -> None:
        self._app = app

    def looked(self, sight: Sight) -> None:
        self._app.post_message(Top.Looked(sight))

    def warned(self, text: str) -> None:
        self._app.post_message(Top.Warned(text))

    def broke(self, error: BaseException) -> None:
        self._app.post_message(Top.LookFailed(error))


async def _run(app: Top, *, mouse: bool) -> int:
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        # textual gives the terminal back when it ends, and a signal alone would not let it.
        loop.add_signal_handler(number, app.exit, _SIGNALLED + number)
    status = await app.run_async(mouse=mouse)
    return InspectExit.FAILED if status is None else status
