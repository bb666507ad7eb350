"""A worker on a host of its own: a member of a real mesh, which pulls and serves.

python -m netbench.member_process '{"task": [...], "host": ..., "key": ..., "seeds": [...]}'

It pulls as a worker does while vLLM waits for its weights, and is a source as soon as it has them.
`policy` says what a replica does meanwhile: `naive` serves nobody before it has everything; `swarm`
serves what it has.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from netbench import upstream
from netbench.child import Json, obey, say
from netbench.common import IDENTITY
from netbench.models import clear, fill
from netbench.storage import StorageReader
from netbench.task import SEED, Task
from netbench.upstream import UpstreamSource
from netloader.config import Config
from netloader.discovery.advert import for_older_members
from netloader.identity.identity import Evidence, LazyContent
from netloader.replica.observer import PullObserver
from netloader.replica.pull import Pull
from netloader.replica.request import Request
from netloader.source.offer import Offer
from netloader.transport.tcp import TcpBackend
from netloader.weights import digests
from netloader.weights.capture import capture
from netloader.worker.loading import reading
from netloader.worker.loading.feeds import Feeds
from netloader.worker.loading.sharing import Sharing
from netloader.worker.loading.sought import Sought
from netloader.worker.loading.waiting import ReadStorage, SourceCame, SourceWait
from netloader.worker.position import Position
from netloader.worker.process import Worker

_PATIENCE_S = 600.0
"""Seconds without progress after which a replica gives up: it has no storage."""

_BACKENDS = (TcpBackend(),)
_NAMES = tuple(one.name for one in _BACKENDS)


class MeshMember:
    """One worker, whose tensors are empty."""

    def __init__(self, task: Task, worker: Worker) -> None:
        self._worker = worker
        self._task = task
        self._weights = task.lay_out(task.model())
        clear(self._weights)
        self._upstream: UpstreamSource | None = None
        self._verified = 0
        source = worker.sources.listen("target")
        assert source is not None, "a host of its own has free ports"
        self.endpoint = source.endpoint
        worker.membership.announce(
            role="target",
            state="loading",
            names=IDENTITY.names.travelling(),
            identity=IDENTITY.digest,
            fields=IDENTITY.fields(),
            content={},
            endpoint=self.endpoint,
            backend=for_older_members(_NAMES),
            transports=_NAMES,
            chunk_bytes=self._weights.manifest.chunk_bytes,
            total=self._weights.manifest.nbytes,
        )

    def serve(self) -> Json:
        """Be a source of random bytes."""
        fill(self._weights, SEED)
        self._offer(digests.of_weights(self._weights, self._weights.manifest.chunks()))
        return {"endpoint": self.endpoint, "sha256": self._weights.sha256()}

    def serve_upstream(self, host: str) -> Json:
        """Be a source by upstream's protocol."""
        model = self._task.model()
        fill(capture(model), SEED)
        self._upstream = UpstreamSource(host, model)
        return {"endpoint": self._upstream.endpoint, "sha256": capture(model).sha256()}

    def load_upstream(self, endpoint: str) -> Json:
        """Pull by upstream's protocol."""
        model = self._task.model()
        clear(capture(model))
        started = time.perf_counter()
        upstream.load(endpoint, model)
        ended = time.perf_counter()
        return {
            "started": started,
            "ended": ended,
            "from": {endpoint: self._task.nbytes},
            "sha256": capture(model).sha256(),
        }

    def pull(self, policy: str) -> Json:
        """Fill all tensors from whoever has them, then serve them."""
        started = time.perf_counter()
        swarm = policy == "swarm"
        one = self._pull(swarm)
        peers = self._worker.peers
        one.run(lambda: peers.find(IDENTITY, _NAMES), wait_for_one=True, has_storage=False)
        ended = time.perf_counter()
        if swarm:
            self._worker.sources.hold("target", "its weights are post-processed")
        self._offer(one.digests)
        suppliers: Counter[str] = Counter()
        for delivery in one.deliveries:
            suppliers[delivery.endpoint] += delivery.nbytes
        return {
            "started": started,
            "ended": ended,
            "from": dict(suppliers),
            "refetched": self._verified - len(self._weights.manifest.chunks()),
            "failures": [str(failure) for failure in one.failures],
            "sha256": self._weights.sha256(),
        }

    def start(self, policy: str, storage: tuple[str, int]) -> Json:
        """Get the weights while nobody has them, but `storage` does."""
        started = time.perf_counter()
        move: SourceCame | ReadStorage = ReadStorage()
        if policy == "swarm":
            move = SourceWait(self._sought()).wait()
        if isinstance(move, SourceCame):
            return self.pull("swarm") | {"started": started, "storage_bytes": 0}
        nbytes = self._weights.manifest.nbytes
        reader = StorageReader(self._weights, (storage[0], storage[1]))
        with reading.told(self._sought(), lambda: reader.nbytes / nbytes):
            reader.read()
        self._offer(digests.of_weights(self._weights, self._weights.manifest.chunks()))
        ended = time.perf_counter()
        return {
            "started": started,
            "ended": ended,
            "storage_bytes": reader.nbytes,
            "sha256": self._weights.sha256(),
        }

    def _sought(self) -> Sought:
        return Sought(
            self._worker,
            IDENTITY,
            None,
            _NAMES,
            self._weights.manifest.nbytes,
            LazyContent({}, {Evidence(kind): text for kind, text in IDENTITY.content.items()}),
            readable=True,
            shareable=True,
            shows_progress=False,
        )

    def _pull(self, swarm: bool) -> Pull:
        worker = self._worker
        request = Request(
            IDENTITY,
            _BACKENDS,
            lambda: worker.sources.security,
            worker.membership.name,
            serves_at=self.endpoint if swarm else "",
        )
        settings = replace(
            worker.config.pull_settings, peer_budget_s=_PATIENCE_S, source_timeout_s=_PATIENCE_S
        )
        self._verified = 0
        feeds = Feeds(worker.progress, "target")
        observer = PullObserver(progress=self._count, looked=feeds.looked)
        if swarm:
            sharing = Sharing(worker, IDENTITY, _BACKENDS, self._weights)
            observer = sharing.observer(observer)
        return Pull(self._weights, request, settings, observer)

    def _count(self, nbytes: int) -> None:
        self._verified += 1

    def _offer(self, promised: tuple[bytes, ...]) -> None:
        offer = Offer(IDENTITY, self._weights, promised, {}, _BACKENDS)
        self._worker.membership.update("target", content=IDENTITY.content)
        self._worker.sources.serve("target", offer)

    def close(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        self._worker.close()


def config_of(spec: Json) -> Config:
    """The settings of a worker on this host."""
    settings = {
        "MESH_ADVERTISE": spec["host"],
        "MESH_KEY": spec["key"],
        "MESH_SEEDS": spec["seeds"],
        "CHUNK_BYTES": spec["task"][2],
        **spec.get("settings", {}),
    }
    return Config.load(settings, {}, lambda key: False)


def main() -> None:
    spec = json.loads(sys.argv[1])
    member = MeshMember(Task.of_spec(spec), Worker(config_of(spec), Position()))
    say({"endpoint": member.endpoint})
    commands: dict[str, Callable[..., Json | None]] = {
        "serve": member.serve,
        "serve_upstream": member.serve_upstream,
        "load_upstream": member.load_upstream,
        "pull": member.pull,
        "start": member.start,
    }
    obey(commands)
    member.close()


if __name__ == "__main__":
    main()
