"""Pull from sources of this process, and end: sessions and streams still close their groups."""

from __future__ import annotations

from contextlib import ExitStack

from tests.loader.support import (
    candidate,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
)

from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend

if __name__ == "__main__":
    serve = ExitStack()
    for backend in (TcpBackend(), GlooBackend()):
        source = serve.enter_context(serving(offer_of(toy_weights(1), backend=backend)))
        pull_from(pull_into(toy_weights(), backend=backend), candidate(source))
