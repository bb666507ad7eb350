"""A mesh of thousands in which weights are on the move, behind a real socket.

    python -m tests.tools.mesh_inspect.moving MESH [MEMBERS [TRANSFERS]] [--by-line]

Prints the address to look at, for `mesh-inspect --mesh MESH --seed ADDRESS`. Each second every
transfer goes on; one that is done makes room for another, and now and then a worker dies, leaves,
stands still, or comes back. With `--by-line` a second passes with each line on standard input,
which is answered with the seconds so far. Ends with standard input.

`MovingMesh` is the mesh without the socket. The same seed gives the same mesh.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from random import Random
from typing import Final

import zmq

from mesh_inspect.view.rows import RankPlace
from netloader.discovery.advert import Holding, encode
from netmesh import Generation, JsonObject, Member, MemberId, RemoteProtocolError, Status
from netmesh.core.claims import Claim
from netmesh.core.messages import Observe, State
from netmesh.core.records import Advert, new_generation, pack_advert, started_ms
from netmesh.core.wire import Codec

from .support import holding

MESH: Final = "moving"

PAGE: Final = 100
"""Claims in an answer: their adverts have about 1.5 kB each, and an answer at most 256 KiB."""

WORKERS: Final = 8
"""On each host."""

LINK: Final = 3_000_000_000
"""Bytes a second that a worker pulls at most."""

MODELS: Final = (
    ("org/dense-70b", 8, 17_600_000_000),
    ("org/moe-235b", 8, 58_700_000_000),
    ("org/dense-8b", 1, 16_100_000_000),
    ("org/coder-32b", 4, 16_400_000_000),
)
"""Name, tensor parallel size, bytes of a rank. Each host serves one of them."""

INCIDENT_EVERY_S: Final = 7


@dataclass
class _Pull:
    """A worker that loads, and whom it pulls from: indexes of workers, with bytes so far."""

    held: int = 0
    rate: int = 0
    brought: dict[int, int] = field(default_factory=dict)


@dataclass
class _Worker:
    """One process, as the mesh knows it."""

    id: MemberId
    model: int
    rank: int
    generation: Generation
    status: Status = Status.ALIVE
    incarnation: int = 0
    version: int = 1
    serving: int = 0
    unavailable: bool = False
    pull: _Pull | None = None
    advert: Advert = Advert(b"{}")  # noqa: RUF009 - a name for bytes

    @property
    def ready(self) -> bool:
        return self.status is Status.ALIVE and self.pull is None and not self.unavailable


class MovingMesh:
    """The members, and what each publishes, as time goes on."""

    def __init__(
        self, members: int = 2000, transfers: int = 50, *, seed: int = 1, now_s: float = 1.79e9
    ) -> None:
        """`now_s` is the wall clock at the beginning, in seconds since the epoch."""
        self.elapsed_s = 0
        self._began_s = now_s
        self._transfers = transfers
        self._rng = Random(seed)
        self._plain: dict[tuple[int, int], Holding] = {}
        self._workers = [self._worker(number) for number in range(members)]
        for worker in self._workers:
            self._publish(worker)
        self._fill()

    @property
    def now_s(self) -> float:
        """The wall clock, in seconds since the epoch."""
        return self._began_s + self.elapsed_s

    def advance(self) -> None:
        """Let a second pass."""
        self.elapsed_s += 1
        for number, worker in enumerate(self._workers):
            if worker.pull is not None and worker.status is Status.ALIVE:
                self._go_on(number, worker, worker.pull)
        if self.elapsed_s % INCIDENT_EVERY_S == 0:
            self._happen()
        self._fill()

    def claims(self) -> list[Claim]:
        """What a member tells an observer."""
        return [
            Claim(one.id, one.generation, one.incarnation, one.status, one.version, one.advert)
            for one in self._workers
        ]

    def members(self) -> tuple[Member, ...]:
        """What an observer makes of the claims."""
        from netmesh.core.records import unpack_advert

        return tuple(
            Member(
                one.id,
                one.generation,
                one.incarnation,
                one.status,
                one.version,
                unpack_advert(one.advert),
                self.now_s - started_ms(one.generation) / 1000,
            )
            for one in sorted(self._workers, key=lambda one: one.id)
        )

    def _worker(self, number: int) -> _Worker:
        host, place = divmod(number, WORKERS)
        model = host % len(MODELS)
        generation = self._generation(-self._rng.randrange(60, 86_400))
        address = MemberId(
            f"10.{host // 62_500}.{host // 250 % 250}.{host % 250 + 1}:{17946 + place}"
        )
        return _Worker(address, model, place % MODELS[model][1], generation)

    def _generation(self, since_s: float = 0.0) -> Generation:
        return new_generation(int((self.now_s + since_s) * 1000), self._rng.getrandbits(22))

    def _fill(self) -> None:
        """Have other workers start to load, until as many do as should."""
        loading = sum(one.pull is not None for one in self._workers)
        for _ in range(min(self._transfers, len(self._workers) // 2) - loading):
            number = self._rng.choice([n for n, one in enumerate(self._workers) if one.ready])
            self._start(number)

    def _start(self, number: int) -> None:
        """A new process takes the place of a worker, and pulls what its ranks elsewhere have."""
        worker = self._workers[number]
        self._let_go(number)
        worker.generation = self._generation()
        worker.status, worker.incarnation, worker.version = Status.ALIVE, 0, 1
        worker.unavailable, worker.pull, worker.serving = False, _Pull(), 0
        alike = [
            other
            for other, one in enumerate(self._workers)
            if one.ready and (one.model, one.rank) == (worker.model, worker.rank)
        ]
        for source in self._rng.sample(alike, min(len(alike), self._rng.randint(1, 4))):
            worker.pull.brought[source] = 0
            self._workers[source].serving += 1
            self._publish(self._workers[source])
        self._publish(worker)

    def _go_on(self, number: int, worker: _Worker, pull: _Pull) -> None:
        total = MODELS[worker.model][2]
        if not pull.brought:
            self._ready(number, worker)  # It read storage.
            return
        pull.rate = 0
        for source in pull.brought:
            rate = int(LINK / len(pull.brought) * self._rng.uniform(0.4, 1.0))
            rate = min(rate, total - pull.held)
            pull.brought[source] += rate
            pull.held += rate
            pull.rate += rate
        if pull.held >= total:
            self._ready(number, worker)
        self._publish(worker)

    def _ready(self, number: int, worker: _Worker) -> None:
        self._let_go(number)
        worker.pull = None
        self._publish(worker)

    def _let_go(self, number: int) -> None:
        """End the sessions of a worker, at both ends."""
        worker = self._workers[number]
        for source in () if worker.pull is None else tuple(worker.pull.brought):
            self._workers[source].serving -= 1
            self._publish(self._workers[source])
        for other in self._workers if worker.serving else ():
            if other.pull is not None and other.pull.brought.pop(number, None) is not None:
                self._publish(other)
        worker.serving = 0

    def _happen(self) -> None:
        """Something befalls a worker, or one comes back."""
        rng, workers = self._rng, self._workers
        number = rng.randrange(len(workers))
        worker = workers[number]
        if not worker.status.live:
            self._start(number)
            return
        if worker.status is Status.STALLED or worker.unavailable:
            worker.status, worker.unavailable = Status.ALIVE, False
            worker.incarnation += 1
            self._publish(worker)
            return
        what = rng.choice(["dead", "left", "stalled", "unavailable"])
        self._let_go(number)
        worker.pull = None
        if what == "unavailable":
            worker.unavailable = True
            self._publish(worker)
        else:
            worker.status = Status[what.upper()]

    def _publish(self, worker: _Worker) -> None:
        worker.version += 1
        worker.advert = pack_advert(self._advert(worker))

    def _advert(self, worker: _Worker) -> JsonObject:
        plain = self._holding(worker.model, worker.rank)
        host = worker.id.rpartition(":")[0]
        changes: dict[str, object] = {
            "endpoint": f"{host}:{31000 + int(worker.id[-1])}",
            "serving": worker.serving,
        }
        pull = worker.pull
        if pull is not None:
            changes |= {
                "state": "loading",
                "nbytes": 0,
                "total": MODELS[worker.model][2],
                "held": pull.held,
                "pulling": len(pull.brought),
                "origin": "",
                "sharing": pull.held > 0,
            }
        elif worker.unavailable:
            changes |= {"state": "unavailable", "reason": "its weights are being updated"}
        advert = encode([plain.changed(**changes)])
        if pull is not None and pull.rate:
            self._tell_feeds(advert, pull)
        return advert

    def _tell_feeds(self, advert: JsonObject, pull: _Pull) -> None:
        listed = advert["holdings"]
        assert isinstance(listed, list) and isinstance(listed[0], dict)
        listed[0]["rate"] = pull.rate
        listed[0]["feeds"] = [
            {
                "endpoint": self._endpoint(self._workers[source]),
                "generation": int(self._workers[source].generation),
                "nbytes": nbytes,
                "rate": pull.rate // len(pull.brought),
            }
            for source, nbytes in pull.brought.items()
        ]

    @staticmethod
    def _endpoint(worker: _Worker) -> str:
        return f"{worker.id.rpartition(':')[0]}:{31000 + int(worker.id[-1])}"

    def _holding(self, model: int, rank: int) -> Holding:
        """A ready worker's, made once for all of its rank: to make one costs a tenth of a
        millisecond."""
        made = self._plain.get((model, rank))
        if made is None:
            name, size, nbytes = MODELS[model]
            made = self._plain[model, rank] = holding(
                name,
                RankPlace(size, rank, 1, 0, 1, 0),
                nbytes=nbytes,
                origin="peers",
                transports=("nccl", "gloo"),
                backend="gloo",
                carried=("nccl",),
            )
        return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mesh", nargs="?", default=MESH)
    parser.add_argument("members", nargs="?", type=int, default=2000)
    parser.add_argument("transfers", nargs="?", type=int, default=50)
    parser.add_argument("--by-line", action="store_true")
    options = parser.parse_args()
    mesh = MovingMesh(options.members, options.transfers, now_s=time.time())
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:*")
    print(router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://"), flush=True)
    _serve(mesh, router, Codec(options.mesh), by_line=options.by_line)


def _serve(mesh: MovingMesh, router: zmq.Socket[bytes], codec: Codec, *, by_line: bool) -> None:
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    claims = mesh.claims()
    due_s = time.monotonic() + 1.0
    while True:
        wait_ms = None if by_line else max(0, int((due_s - time.monotonic()) * 1000))
        ready = dict(poller.poll(wait_ms))
        if sys.stdin.fileno() in ready:
            said = os.read(sys.stdin.fileno(), 4096)
            if not said:
                return
            for _ in range(said.count(b"\n") if by_line else 0):
                mesh.advance()
                claims = mesh.claims()
                print(mesh.elapsed_s, flush=True)
        if not by_line and time.monotonic() >= due_s:
            mesh.advance()
            claims = mesh.claims()
            due_s += 1.0
        if router in ready:
            connection, *frames = router.recv_multipart()
            try:
                asked = codec.decode(frames)
            except RemoteProtocolError:
                continue
            if isinstance(asked, Observe):
                answer = _page(claims, asked.cursor)
                router.send_multipart([connection, *codec.encode(answer)], zmq.DONTWAIT)


def _page(claims: list[Claim], cursor: int) -> State:
    end = cursor + PAGE
    first = claims[0]
    return State(
        sender=first.id,
        generation=first.generation,
        sequence=0,
        root=0,
        size=len(claims),
        claims=tuple(claims[cursor:end]),
        cursor=end if end < len(claims) else None,
    )


if __name__ == "__main__":
    main()
