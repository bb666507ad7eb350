"""A worker that serves weights and, at the same time, what stands for a model's requests.

    python -m tests.loader.source.soak_process <settings as JSON>

Prints one JSON object once it serves: the id of its member, and the endpoint of its source. Then
it answers each line of its standard input by the same line, after some work, until that closes.
"""

from __future__ import annotations

import json
import sys

import torch
from tests.loader.discovery.test_advert import holding
from tests.loader.support import offer_of, toy_weights

from netloader.config import Config
from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend
from netloader.worker.position import Position
from netloader.worker.process import Worker

SEED = 1


def main(settings: str) -> None:
    torch.set_num_threads(1)
    worker = Worker(Config.load(json.loads(settings), {}), Position())
    try:
        source = worker.sources.listen("target")
        assert source is not None
        worker.membership.announce(**dict(holding(state="loading", endpoint=source.endpoint)))
        offer = offer_of(toy_weights(SEED), backends=(TcpBackend(), GlooBackend()))
        worker.sources.serve("target", offer)
        print(json.dumps({"id": worker.membership.name, "endpoint": source.endpoint}), flush=True)
        answer()
    finally:
        worker.close()


def answer() -> None:
    layer = torch.rand(256, 256)
    for line in sys.stdin:
        torch.mm(layer, layer)
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
