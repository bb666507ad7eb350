"""One model on its way into a worker: what the settings do to where its weights come from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.loader.support import (
    OnSend,
    Stuck,
    TamperedBackend,
    Toy,
    cut_after,
    equal,
    identity,
    offer_of,
    serving,
    toy_weights,
    wrong_byte_in,
)
from torch import nn

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import WeightFile
from netloader.checkpoint.wanted import Files, Wanted
from netloader.config import MIN_CHUNK_BYTES, Config
from netloader.errors import ConfigError, IdentityError, NotAtHand, NothingToLoadError
from netloader.identity.identity import Evidence, Fields, LazyContent
from netloader.system.memory import Available
from netloader.transport.gloo import GlooBackend
from netloader.weights.capture import capture
from netloader.worker.load import ModelLoad
from netloader.worker.worker import Worker

ROWS = 30_000
"""Several chunks of the smallest size that may be set."""

WEIGHTS = toy_weights(1, rows=ROWS, chunk=MIN_CHUNK_BYTES)


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


FILE = Path(__file__)
"""Stands for the file that a checkpoint is read from."""


@dataclass
class FakeEngine:
    """Stands for vLLM: fills a toy model, and says what a checkpoint of one file would be."""

    evidence: Mapping[Evidence, str] = field(default_factory=lambda: {Evidence.SAMPLE: "a" * 32})
    files: Files | None = field(default_factory=lambda: one_file(FILE))
    reads: Files | None = field(default_factory=lambda: one_file(FILE))
    opens: list[str] = field(default_factory=list)
    """What is opened beyond the checkpoint's files."""
    demanded: Mapping[Evidence, str] = field(default_factory=dict)
    error: Exception | None = None
    """Raised by storage."""
    unknown: IdentityError | None = None
    """Raised when it is asked which content it needs."""
    while_loading: Callable[[nn.Module], object] = lambda model: None
    reserve: int = 0
    cache: None = None

    def built(self, model: nn.Module) -> Fields:
        return identity().built

    def wanted(self, model: nn.Module) -> Wanted:
        if self.unknown is not None:
            raise self.unknown
        absent = "" if self.files is not None else "no files here"
        return Wanted(LazyContent({}, self.evidence), self.files, absent, self.demanded)

    def wanted_early(self) -> Wanted:
        return self.wanted(nn.Module())

    def fill(self, model: nn.Module) -> None:
        if self.error is not None:
            raise self.error
        for mine, right in zip(capture(model).tensors, WEIGHTS.tensors, strict=True):
            mine.copy_(right)
        self.while_loading(model)

    def read(self) -> Files | None:
        return self.reads

    def commit(self, model: nn.Module) -> str | None:
        return None

    def beyond(self, covered: Files | None) -> list[str]:
        return self.opens

    def memory(self) -> tuple[Available | None, int]:
        return None, self.reserve


def one_file(path: Path) -> Files:
    files = (WeightFile(path),)
    return Files(files, frozenset({path.parent}), evidence.stamps(files))


@contextmanager
def sources(*faults: OnSend) -> Iterator[list[str]]:
    """The endpoints of one source with each fault."""
    with ExitStack() as stack:
        offers = [offer_of(WEIGHTS, backend=TamperedBackend(fault)) for fault in faults]
        yield [stack.enter_context(serving(offer)).endpoint for offer in offers]


def load(
    endpoints: list[str], engine: FakeEngine | None = None, **extra: object
) -> tuple[ModelLoad, bool]:
    """A load from these sources, and whether it ended with the right bytes."""
    listed = [{"device_id": 0, "sources": endpoints}]
    settings = {"MESH": False, "SOURCE": listed, "CHUNK_BYTES": MIN_CHUNK_BYTES, **extra}
    worker = Worker(Config.load(settings, {}), 0)
    try:
        one = ModelLoad(
            worker,
            identity().names,
            "target",
            use_tqdm=False,
            made_of=engine or FakeEngine(),
        )
        one.announce(identity(content={}), GlooBackend(), "cpu")
        model = Toy(rows=ROWS)
        one.fill(model)
        right = equal(capture(model), WEIGHTS)
        one.serve(model)
        if one.offering is not None:
            one.offering.join(30)
            assert not one.offering.is_alive()
    finally:
        worker.close()
    return one, right


def test_max_sources() -> None:
    begun = threading.Event()

    def first(tag: int, data: torch.Tensor) -> torch.Tensor:
        begun.set()
        return data

    def second(tag: int, data: torch.Tensor) -> torch.Tensor:
        assert begun.wait(10)
        return data

    with sources(first, second) as endpoints:
        many, right = load(endpoints)
        assert right
        assert {delivery.endpoint for delivery in many.deliveries} == set(endpoints)
        one, right = load(endpoints, MAX_SOURCES=1)
        assert right
        assert [delivery.endpoint for delivery in one.deliveries] == endpoints[:1]


def test_verify() -> None:
    with sources(wrong_byte_in(0)) as endpoints:
        verified, right = load(endpoints, SOURCE_TIMEOUT=0)
        assert (verified.origin, right) == ("storage", True)
        assert any("chunk 0 has digest" in reason for reason in verified.skipped)
        taken, right = load(endpoints, VERIFY=False)
        assert (taken.origin, right) == ("peers", False)


def test_source_timeout() -> None:
    with sources(cut_after(2)) as endpoints:
        started = time.monotonic()
        one, right = load(endpoints, SOURCE_TIMEOUT=0.5)
        assert (one.origin, right) == ("storage", True)
        assert "no source was left for 0.5 s" in one.skipped
        assert time.monotonic() - started >= 0.5


def test_transfer_timeout() -> None:
    stuck = Stuck(after=1)
    with sources(stuck) as endpoints:
        one, right = load(endpoints, TRANSFER_TIMEOUT=0.5, SOURCE_TIMEOUT=0)
        stuck.release.set()
    assert (one.origin, right) == ("storage", True)
    assert one.deliveries[0].nbytes > 0


def test_worker_that_reads_storage_becomes_a_source_with_the_evidence_of_what_it_read() -> None:
    one, right = load([])
    assert (one.origin, right, one.cannot_share) == ("storage", True, "")
    assert one.source is not None


def test_a_replica_gets_everything_that_load_weights_left_besides_tensors() -> None:
    def leaves(model: nn.Module) -> None:
        model.has_own_head = True

    stored, _ = load([], FakeEngine(while_loading=leaves))
    assert stored.cannot_share == ""


class TestNotASource:
    """A worker that cannot say what it was filled with serves nobody, and says why."""

    @pytest.mark.parametrize(
        ("engine", "reason"),
        [
            (FakeEngine(reads=None), "not known which files storage was read from"),
            (FakeEngine(reads=one_file(Path(pytest.__file__))), "other files than vLLM had named"),
            (FakeEngine(opens=["/m/adapter.bin"]), "opened /m/adapter.bin"),
            (FakeEngine(unknown=IdentityError("vLLM does not say")), "vLLM does not say"),
        ],
    )
    def test_because_of_its_files(self, engine: FakeEngine, reason: str) -> None:
        one, right = load([], engine)
        assert (one.origin, right) == ("storage", True)
        assert reason in one.cannot_share

    def test_because_a_file_changed_while_it_was_read(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(b"one")
        engine = FakeEngine(
            files=one_file(path),
            reads=one_file(path),
            while_loading=lambda model: path.write_bytes(b"another"),
        )
        one, right = load([], engine)
        assert right
        assert "model.bin" in one.cannot_share
        assert "while it was being loaded" in one.cannot_share

    def test_because_load_weights_wrote_to_a_buffer_that_does_not_travel(self) -> None:
        def writes(model: nn.Module) -> None:
            model.get_buffer("flag").fill_(True)

        one, right = load([], FakeEngine(while_loading=writes))
        assert right
        assert "load_weights wrote to flag" in one.cannot_share


class TestWithoutFiles:
    """A worker whose storage has no weights waits for a peer, and says what to do if none comes."""

    def test_it_takes_a_peers(self) -> None:
        with sources(honest) as endpoints:
            one, right = load(endpoints, FakeEngine(files=None, error=RuntimeError("no weights")))
        assert (one.origin, right) == ("peers", True)

    def test_it_waits_for_one_and_then_says_both(self) -> None:
        engine = FakeEngine(files=None, error=RuntimeError("Cannot find any model weights"))
        started = time.monotonic()
        with sources() as _, pytest.raises(NothingToLoadError) as caught:
            load(["127.0.0.1:9"], engine, SOURCE_TIMEOUT=0.5)
        assert time.monotonic() - started >= 0.5
        text = str(caught.value)
        assert f"wants sample:{'a' * 32}" in text
        assert "Cannot find any model weights" in text
        assert "127.0.0.1:9" in text

    def test_it_does_not_guess_and_says_what_to_set(self) -> None:
        engine = FakeEngine(unknown=NotAtHand("nothing is known"), error=RuntimeError("none"))
        with sources(honest) as endpoints, pytest.raises(NothingToLoadError) as caught:
            load(endpoints, engine)
        assert "set CONTENT to the content id" in str(caught.value)

    def test_without_anybody_to_wait_for_it_does_not_wait(self) -> None:
        engine = FakeEngine(files=None, error=RuntimeError("none"))
        started = time.monotonic()
        with pytest.raises(NothingToLoadError):
            load([], engine, SOURCE_TIMEOUT=60)
        assert time.monotonic() - started < 30

    def test_what_storage_downloads_after_all_is_served(self) -> None:
        one, right = load([], FakeEngine(files=None))
        assert (one.origin, right, one.cannot_share) == ("storage", True, "")


def test_files_that_are_not_what_content_demands_stop_the_start(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"legacy")
    demanded = {Evidence.SAMPLE: "f" * 32}
    engine = FakeEngine(evidence=demanded, demanded=demanded, files=one_file(path))
    with pytest.raises(ConfigError, match=r"CONTENT='sample:f{32}'"):
        load([], engine)


def test_failure_of_storage_is_raised_as_it_is_where_files_are_at_hand() -> None:
    with pytest.raises(ValueError, match="not initialized from checkpoint"):
        load([], FakeEngine(error=ValueError("not initialized from checkpoint")))
