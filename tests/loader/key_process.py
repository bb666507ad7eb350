"""A worker in a process of its own, with the settings it is given.

    python key_process.py <settings as JSON> source
    python key_process.py <settings as JSON> replica <endpoint of a source>

A source prints its endpoint once it serves and goes on until its standard input closes. A replica
prints one JSON object: how many other members it sees, why sources were not used, what a pull from
the first source that it found said ("pulled" when all arrived), and the same of the endpoint.
"""

from __future__ import annotations

import contextlib
import json
import sys

from tests.loader.discovery.test_advert import holding
from tests.loader.support import equal, identity, offer_of, pull_from, pull_into, toy_weights, until

from netloader.config import Config
from netloader.discovery.candidate import Candidate
from netloader.errors import TransferError
from netloader.worker.position import Position
from netloader.worker.process import Worker


def serve(worker: Worker) -> None:
    source = worker.sources.listen("target")
    assert source is not None
    worker.membership.announce(**dict(holding(state="loading", endpoint=source.endpoint)))
    worker.sources.serve("target", offer_of(toy_weights(1)))
    print(source.endpoint, flush=True)
    sys.stdin.read()


def pull(worker: Worker, found: Candidate) -> str:
    replica = toy_weights()
    try:
        pull_from(pull_into(replica, security=lambda: worker.sources.security), found)
    except TransferError as error:
        return error.reason
    assert equal(replica, toy_weights(1))
    return "pulled"


def ask(worker: Worker, endpoint: str, wait_s: float) -> dict[str, object]:
    # That nobody is found in time may be what the test wants.
    with contextlib.suppress(AssertionError):
        until(lambda: worker.peers.candidates(identity(), ("gloo",))[0], wait_s)
    found, skipped = worker.peers.candidates(identity(), ("gloo",))
    members = worker.membership.members()
    return {
        "others": len(members) - 1,
        "skipped": skipped,
        "found": pull(worker, found[0]) if found else None,
        "direct": pull(worker, Candidate(endpoint, "SOURCE")),
    }


def main(settings: str, what: str, endpoint: str = "", wait_s: str = "0") -> None:
    worker = Worker(Config.load(json.loads(settings), {}), Position())
    try:
        if what == "source":
            serve(worker)
        else:
            print(json.dumps(ask(worker, endpoint, float(wait_s))))
    finally:
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
