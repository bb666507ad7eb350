"""A source in a process of its own: Netloader's, upstream's and plain Gloo's.

python -m netbench.source_process '{"task": [...], "host": ...}'
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field

import torch

from netbench import memory, raw
from netbench.backends import backends_of
from netbench.child import Json, obey, say
from netbench.common import GENERATION, IDENTITY, OPEN, TIMEOUT_S
from netbench.models import fill
from netbench.task import SEED, Task
from netbench.upstream import UpstreamSource
from netbench.watch import ChunkWatch, WatchedBackend
from netloader.source.listener import Listener
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.source.settings import SourceSettings
from netloader.transport.tcp import TcpBackend
from netloader.weights import digests
from netloader.weights.capture import capture


@dataclass
class _RawSender:
    """The sending end of plain Gloo."""

    host: str
    nbytes: int
    _links: dict[int, raw.RawLink] = field(default_factory=dict)
    _data: torch.Tensor | None = None

    def open(self, lanes: int) -> Json:
        """Answer with the port to meet at, and answer again when the other end is there."""
        store = raw.listen(self.host)
        say({"port": store.port})
        self._links[lanes] = raw.RawLink(store, raw.SENDER, self.host, lanes)
        if self._data is None:
            self._data = torch.ones(self.nbytes, dtype=torch.uint8)
        return {}

    def send(self, lanes: int, copied: bool = False) -> None:
        assert self._data is not None
        link = self._links[lanes]
        send = link.send_copied if copied else link.send
        send(self._data)


def main() -> None:
    spec = json.loads(sys.argv[1])
    task = Task.of_spec(spec)
    weights = task.lay_out(task.model())
    fill(weights, SEED)
    watch = ChunkWatch()
    transport = spec.get("transport")
    carriers = backends_of(transport) if transport is not None else (TcpBackend(),)
    backends = tuple(WatchedBackend(one, watch) for one in carriers)
    settings = SourceSettings(timeout_s=TIMEOUT_S)
    listener = Listener(spec["host"], None, OPEN, settings.handshake_timeout_s)
    source = Source(listener, lambda: GENERATION, settings)
    chunks = weights.manifest.chunks()
    source.serve(Offer(IDENTITY, weights, digests.of_weights(weights, chunks), {}, backends))
    # Upstream sends a model from the memory where torch has put it.
    model = task.model()
    fill(capture(model), SEED)
    upstream = UpstreamSource(spec["host"], model)
    raw_end = _RawSender(spec["host"], task.nbytes)
    say({"endpoint": source.endpoint, "upstream": upstream.endpoint})
    obey(
        {
            "raw_open": raw_end.open,
            "raw_send": raw_end.send,
            "sha256": weights.sha256,
            "processor": lambda: {"seconds": time.process_time()},
            "mark_memory": lambda: {"bytes": memory.mark()},
            "peak_memory": lambda: {"bytes": memory.peak()},
            "first_send": lambda: {"at": watch.take_first_send()},
        }
    )
    upstream.close()
    source.close()


if __name__ == "__main__":
    main()
