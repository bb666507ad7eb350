"""Pull from a source of this process, and end: a session and a stream still close their groups."""

from __future__ import annotations

from tests.loader.support import (
    candidate,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
)

if __name__ == "__main__":
    serve = serving(offer_of(toy_weights(1)))
    pull_from(pull_into(toy_weights()), candidate(serve.__enter__()))
