"""An engine without vLLM, and a whole load with it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.loader.support import (
    OnSend,
    TamperedBackend,
    Toy,
    equal,
    identity,
    offer_of,
    serving,
    toy_weights,
)
from tests.meshes import OWN_MESH
from torch import nn

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import WeightFile
from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted
from netloader.config import MIN_CHUNK_BYTES, Config
from netloader.discovery.advert import Holding
from netloader.identity.identity import Evidence, Fields, Identity, LazyContent
from netloader.system.memory import Available
from netloader.transport.tcp import TcpBackend
from netloader.upstream.group import OrderedCarrier
from netloader.weights.capture import capture
from netloader.worker.loading.adopt import Prepared, spoilt
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import Filled, fill
from netloader.worker.loading.finish import Complete, finish
from netloader.worker.loading.plan import BuildAgain, Tried, plan
from netloader.worker.loading.request import LoadRequest
from netloader.worker.loading.serve import NotServed, Served, serve
from netloader.worker.position import Position
from netloader.worker.process import Worker

ROWS = 30_000
"""Several chunks of the smallest size that may be set."""

WEIGHTS = toy_weights(1, rows=ROWS, chunk=MIN_CHUNK_BYTES)

FILE = Path(__file__)
"""Stands for the file that a checkpoint is read from."""


def one_file(path: Path) -> Files:
    files = (WeightFile(path),)
    return Files(files, frozenset({path.parent}), evidence.stamps(files))


def never(*arguments: object) -> None:
    """Raises nothing."""


@dataclass
class FakeEngine:
    """Stands for vLLM: fills a toy model, and says what a checkpoint of one file would be."""

    evidence: Mapping[Evidence, str] = field(default_factory=lambda: {Evidence.SAMPLE: "a" * 32})
    makers: Mapping[Evidence, Callable[[], str]] = field(default_factory=dict)
    """Of evidence that is not known yet."""
    files: Files | None = field(default_factory=lambda: one_file(FILE))
    reads: Files | None = field(default_factory=lambda: one_file(FILE))
    opens: list[str] = field(default_factory=list)
    """What is opened beyond the checkpoint's files."""
    demanded: Mapping[Evidence, str] = field(default_factory=dict)
    error: Exception | None = None
    """Raised by storage."""
    leaves_out: Callable[[str], bool] = lambda name: False
    """Whether the checkpoint has no tensor of this name."""
    unknown: Exception | None = None
    """Raised when it is asked which content it needs."""
    while_loading: Callable[[nn.Module], object] = never
    process: Callable[[nn.Module], object] = never
    """Post-processes a filled model."""
    kernel: str = "plain"
    """What post-processing is made for."""
    fails_in: Callable[[str], object] = never
    """Called with the name of each question."""
    reserve: int = 0
    device: str = "cpu"
    commit_of_files: str | None = None
    carrier: OrderedCarrier | None = None
    """Of transfers with vLLM Ascend's own Netloader."""
    cache: HostCache | None = None

    def identity(self) -> Identity:
        self.fails_in("identity")
        return identity(content={})

    def device_type(self) -> str:
        self.fails_in("device_type")
        return self.device

    def built_parts(self, model: nn.Module) -> Fields:
        self.fails_in("built_parts")
        return identity().built

    def processed_parts(self, model: nn.Module) -> Fields:
        self.fails_in("processed_parts")
        return {"chip": "toy", "kernel.Toy": self.kernel}

    def wanted(self, model: nn.Module) -> Wanted:
        self.fails_in("wanted")
        if self.unknown is not None:
            raise self.unknown
        absent = "" if self.files is not None else "no files here"
        return Wanted(LazyContent(self.makers, self.evidence), self.files, absent, self.demanded)

    def wanted_by_class(self) -> Wanted:
        self.fails_in("wanted_by_class")
        return self.wanted(nn.Module())

    def load_from_storage(self, model: nn.Module) -> None:
        if self.error is not None:
            raise self.error
        mine = capture(model)
        for tensor, empty, right in zip(
            mine.manifest.tensors, mine.tensors, WEIGHTS.tensors, strict=True
        ):
            if not self.leaves_out(tensor.name):
                empty.copy_(right)
        self.while_loading(model)

    def share_read(self) -> float:
        self.fails_in("share_read")
        return 0.0

    def upstream_carrier(self) -> OrderedCarrier | None:
        return self.carrier

    def load_sample(self, model: nn.Module, files: Files) -> int:
        self.fails_in("load_sample")
        self.load_from_storage(model)
        return 1

    def files_read(self) -> Files | None:
        self.fails_in("files_read")
        return self.reads

    def commit(self, model: nn.Module) -> str | None:
        return self.commit_of_files

    def opened_beyond(self, covered: Files | None) -> list[str]:
        self.fails_in("opened_beyond")
        return self.opens

    def host_memory(self) -> tuple[Available | None, int]:
        self.fails_in("host_memory")
        return None, self.reserve


@contextmanager
def sources(*faults: OnSend) -> Iterator[list[str]]:
    """The endpoints of one source with each fault. A worker pulls by TCP."""
    with ExitStack() as stack:
        offers = [
            offer_of(WEIGHTS, backend=TamperedBackend(fault, TcpBackend())) for fault in faults
        ]
        yield [stack.enter_context(serving(offer)).endpoint for offer in offers]


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    """What is freed is freed because nothing refers to it: vLLM freezes most of the heap."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def working(**extra: object) -> Iterator[Worker]:
    """A worker of its own, without a mesh."""
    worker = Worker(
        Config.load({"MESH": False, "CHUNK_BYTES": MIN_CHUNK_BYTES, **extra}, {}), Position()
    )
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def member(folder: Path, rank: int, **extra: object) -> Iterator[Worker]:
    """A worker in a mesh of this test."""
    settings = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(folder),
        "MESH_ADVERTISE": "127.0.0.1",
        "CHUNK_BYTES": MIN_CHUNK_BYTES,
        **extra,
    }
    worker = Worker(Config.load(settings, {}), Position.alone(rank))
    try:
        yield worker
    finally:
        worker.close()


def advert(worker: Worker) -> Holding:
    held = worker.membership.holding("target")
    assert held is not None
    return held


def toy() -> nn.Module:
    return Toy(rows=ROWS)


def request(worker: Worker, engine: FakeEngine, *, shows_progress: bool = False) -> LoadRequest:
    return LoadRequest(worker, engine, identity().names, "target", shows_progress)


@dataclass(frozen=True)
class Loaded:
    """What became of a load."""

    end: Served | NotServed
    model: nn.Module
    right: bool
    """Whether the model had the right bytes before post-processing."""
    built: int
    """How often the model was built."""

    @property
    def origin(self) -> str:
        return self.end.record.origin

    @property
    def tried(self) -> Tried:
        return self.end.record.tried

    @property
    def skipped(self) -> tuple[str, ...]:
        return self.tried.skipped

    @property
    def delivered(self) -> dict[str, int]:
        """Bytes by endpoint."""
        return {one.endpoint: one.nbytes for one in self.tried.deliveries}

    @property
    def reason(self) -> str:
        """Why it is not served; empty when it is."""
        return self.end.reason if isinstance(self.end, NotServed) else ""


def load_with(
    worker: Worker,
    engine: FakeEngine,
    model: Callable[[], nn.Module],
    *,
    shows_progress: bool = False,
) -> Loaded:
    """All steps, as the engine takes them."""
    planned = plan(request(worker, engine, shows_progress=shows_progress))
    for attempt in range(1, 3):
        made = model()
        built = build(planned, made)
        filled = built if isinstance(built, BuildAgain) else fill(built, made)
        right = equal(capture(made), WEIGHTS)
        complete = filled if isinstance(filled, BuildAgain) else _processed(filled, made, engine)
        if not isinstance(complete, BuildAgain):
            return Loaded(serve(complete, made).result(30), made, right, attempt)
        planned = complete.plan
    raise AssertionError("a model is built twice at most")


def _processed(
    filled: Filled | Prepared, model: nn.Module, engine: FakeEngine
) -> Complete | BuildAgain:
    try:
        engine.process(model)
    except ArithmeticError as error:
        if isinstance(filled, Prepared):
            return spoilt(filled, error)
        raise
    return finish(filled, model)


def load(endpoints: list[str], engine: FakeEngine | None = None, **extra: object) -> Loaded:
    """A load from these sources."""
    listed = [{"device_id": 0, "sources": endpoints}]
    with working(SOURCE=listed, **extra) as worker:
        return load_with(worker, engine or FakeEngine(), toy)
