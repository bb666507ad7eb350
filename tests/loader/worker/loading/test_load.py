"""Whole loads: what the settings do to where weights come from, and who becomes a source."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from tests.fastest import HANG_S, at_most
from tests.loader.support import (
    OPEN,
    OnSend,
    Stuck,
    cut_after,
    offer_of,
    serving,
    wrong_byte_in,
)
from tests.loader.worker.loading.whole_load import WEIGHTS, FakeEngine, load, one_file, sources
from tests.meshes import OWN_MESH
from torch import nn

from netloader.checkpoint import measured
from netloader.checkpoint.hostcache import HostCache
from netloader.errors import ConfigError, IdentityError, NotAtHand, NothingToLoadError
from netloader.identity.identity import Evidence
from netloader.source.listener import Exposure, Listener
from netloader.source.throttle import Throttle
from netloader.system.fetched import fetched_bytes
from netloader.transport.tcp import TcpBackend
from netloader.worker.loading.serve import Served


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def test_max_sources() -> None:
    begun = {"first": threading.Event(), "second": threading.Event()}

    def sends(name: str, other: str) -> OnSend:
        def send(tag: int, data: torch.Tensor) -> torch.Tensor:
            begun[name].set()
            # Neither may be done with everything before the other was asked for something.
            assert begun[other].wait(HANG_S)
            return data

        return send

    with sources(sends("first", "second"), sends("second", "first")) as endpoints:
        many = load(endpoints)
        assert many.right
        assert all(event.is_set() for event in begun.values())
        one = load(endpoints, MAX_SOURCES=1)
        assert one.right
        assert [*one.delivered] == endpoints[:1]


def test_verify() -> None:
    with sources(wrong_byte_in(0)) as endpoints:
        verified = load(endpoints, SOURCE_TIMEOUT=0)
        assert (verified.origin, verified.right) == ("storage", True)
        assert any("chunk 0 has digest" in reason for reason in verified.skipped)
        taken = load(endpoints, VERIFY=False)
        assert (taken.origin, taken.right) == ("peers", False)


def test_source_timeout() -> None:
    with sources(cut_after(2)) as endpoints:
        started = time.monotonic()
        one = load(endpoints, SOURCE_TIMEOUT=0.5)
        assert (one.origin, one.right) == ("storage", True)
        assert "waited 0.5 s for a source, none came" in one.skipped
        assert time.monotonic() - started >= 0.5


def test_transfer_timeout() -> None:
    stuck = Stuck(after=1)
    with sources(stuck) as endpoints:
        one = load(endpoints, TRANSFER_TIMEOUT=0.5, SOURCE_TIMEOUT=0)
        stuck.release.set()
    assert (one.origin, one.right) == ("storage", True)
    assert [*one.delivered.values()] > [0]


def test_a_source_leads_a_worker_without_a_key_nowhere_but_to_loopback(tmp_path: Path) -> None:
    listener = Listener("192.0.2.1", None, OPEN, 3.0, exposure=Exposure(bind="127.0.0.1"))
    mesh = {"MESH": True, "MESH_NAME": OWN_MESH, "MESH_DIRECTORY": str(tmp_path / "mesh")}
    with serving(offer_of(WEIGHTS), listener=listener) as source:
        one = load([f"127.0.0.1:{source.port}"], SOURCE_TIMEOUT=0, **mesh)
    assert (one.origin, one.right) == ("storage", True)
    said = "sends this worker to '192.0.2.1:[0-9]+', where it may not connect"
    assert any(re.search(said, reason) for reason in one.skipped), one.skipped


@pytest.mark.parametrize("measured_rate", [None, 1e9])
def test_a_pull_gives_way_to_storage_that_was_measured(
    tmp_path: Path, measured_rate: float | None
) -> None:
    """Two seconds into the pull half of it is left, and storage would be done."""
    engine = FakeEngine(cache=HostCache(tmp_path / "cache"))
    if measured_rate is not None:
        assert engine.files is not None
        second = int(measured_rate)
        measured.remember(engine.cache, engine.files.stamps, second, second, 1.0)
    throttle = Throttle(2_000_000, 1)
    with serving(offer_of(WEIGHTS, backend=TcpBackend()), throttle=throttle) as source:
        one = load([source.endpoint], engine, PEER_BUDGET=2, MIN_RATE=1)
    assert one.right
    if measured_rate is None:
        assert one.origin == "peers"
    else:
        assert one.origin == "storage"
        assert any("sooner by 500 MB/s (measured on this host)" in why for why in one.skipped)


def test_what_storage_brought_is_measured_where_the_kernel_counts_it(tmp_path: Path) -> None:
    """On a file system that keeps files in memory nothing is fetched, so nothing is noted."""
    file = tmp_path / "weights"
    with file.open("wb") as out:
        out.write(os.urandom(WEIGHTS.manifest.nbytes))
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, nbytes = fetched_bytes(), len(file.read_bytes())
    after = fetched_bytes()
    counted = before is not None and after is not None and after - before >= nbytes / 2

    def read(model: nn.Module) -> None:
        with file.open("rb") as read:
            os.posix_fadvise(read.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while read.read(1 << 20):
                pass

    cache, files = HostCache(tmp_path / "cache"), one_file(file)
    engine = FakeEngine(cache=cache, files=files, reads=files, while_loading=read)
    assert load([], engine).origin == "storage"
    rate = measured.rate(cache, files.stamps)
    print(f"{rate} B/s are relied on")
    assert (rate is not None) == counted


def test_worker_that_reads_storage_becomes_a_source_with_the_evidence_of_what_it_read() -> None:
    one = load([])
    assert (one.origin, one.right, one.reason) == ("storage", True, "")
    assert isinstance(one.end, Served)


def test_a_replica_gets_everything_that_load_weights_left_besides_tensors() -> None:
    def leaves(model: nn.Module) -> None:
        model.has_own_head = True

    stored = load([], FakeEngine(while_loading=leaves))
    assert stored.reason == ""


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
        one = load([], engine)
        assert (one.origin, one.right) == ("storage", True)
        assert reason in one.reason

    def test_because_a_file_changed_while_it_was_read(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        path.write_bytes(b"one")
        engine = FakeEngine(
            files=one_file(path),
            reads=one_file(path),
            while_loading=lambda model: path.write_bytes(b"another"),
        )
        one = load([], engine)
        assert one.right
        assert "model.bin" in one.reason
        assert "while it was being loaded" in one.reason

    def test_because_load_weights_wrote_to_a_buffer_that_does_not_travel(self) -> None:
        def writes(model: nn.Module) -> None:
            model.get_buffer("flag").fill_(True)

        one = load([], FakeEngine(while_loading=writes))
        assert one.right
        assert "load_weights wrote to flag" in one.reason


class TestWithoutFiles:
    """A worker whose storage has no weights waits for a peer, and says what to do if none comes."""

    def test_it_takes_a_peers(self) -> None:
        with sources(honest) as endpoints:
            one = load(endpoints, FakeEngine(files=None, error=RuntimeError("no weights")))
        assert (one.origin, one.right) == ("peers", True)

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
        with at_most(30), pytest.raises(NothingToLoadError):
            load([], engine, SOURCE_TIMEOUT=HANG_S)

    def test_what_storage_downloads_after_all_is_served(self) -> None:
        one = load([], FakeEngine(files=None))
        assert (one.origin, one.right, one.reason) == ("storage", True, "")


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
