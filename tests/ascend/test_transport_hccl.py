"""What is particular to HCCL groups. `tests/loader/transport/conformance` has the rest."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch

from netloader.system.threads import TransferThread
from netloader.transport import Rendezvous, TransportError, backends_for, join
from netloader.weights.capture import capture
from tests.loader.support import (
    CHUNK,
    Toy,
    candidate,
    offer_of,
    pull_from,
    pull_into,
    start_source,
    until,
)
from tests.loader.transport.carriers import GroupPair, do, make_hccl, open_pair, started

LATE_S = 60.0
MIB = 1 << 20

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def pair() -> Iterator[GroupPair]:
    made = open_pair(make_hccl())
    yield made
    made.abort()


def used() -> int:
    free, total = torch.npu.mem_get_info(0)
    return total - free


def test_a_group_that_would_not_fit_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECANN_MEMORY_MB", str(used() // MIB + 80))
    rendezvous = Rendezvous("127.0.0.1", LATE_S)
    source = started(lambda: rendezvous.open(make_hccl()))
    with pytest.raises(TransportError, match=r"device 0 has \d+ MiB free, and .* 40 MiB"):
        join("127.0.0.1", rendezvous.port, rendezvous.secret, make_hccl(), LATE_S)
    assert isinstance(source.exception(LATE_S), TransportError)


def test_the_memory_of_a_session_is_what_was_said_and_comes_back() -> None:
    open_pair(make_hccl()).abort()  # What this process needs once.
    before = used()
    pair = open_pair(make_hccl())
    assert used() - before == 2 * 40 * MIB
    pair.abort()
    assert used() == before


def test_sizes_that_do_not_fit_break_the_group_before_a_byte_moves(pair: GroupPair) -> None:
    target = torch.zeros(99, dtype=torch.uint8, device="npu:0")
    arriving = pair.replica.recv(target, 1)
    with pytest.raises(TransportError, match=r"100 bytes with tag 1 .* 99 with tag 1"):
        pair.source.send(torch.ones(100, dtype=torch.uint8, device="npu:0"), 1).wait(LATE_S)
    with pytest.raises(TransportError, match="the source has left"):
        arriving.wait(LATE_S)
    assert not target.cpu().any()


def test_host_memory_is_sent_by_way_of_the_device(pair: GroupPair) -> None:
    sent = [torch.full((4 * MIB,), number, dtype=torch.uint8) for number in range(6)]
    targets = [torch.zeros_like(one, device="npu:0") for one in sent]
    arriving = [pair.replica.recv(one, 3) for one in targets]
    before = torch.npu.memory_allocated(0)
    leaving = []
    for one in sent:
        leaving.append(pair.source.send(one, 3))
        assert torch.npu.memory_allocated(0) - before <= 3 * 4 * MIB
    for pending in leaving + arriving:
        pending.wait(LATE_S)
    assert all(torch.equal(one, target.cpu()) for one, target in zip(sent, targets, strict=True))


def test_out_of_device_memory_between_two_messages_breaks_the_group_and_nothing_else(
    pair: GroupPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = torch.full((64 * MIB,), 5, dtype=torch.uint8)
    targets = [torch.zeros_like(sent, device="npu:0") for _ in "12"]
    arriving = [pair.replica.recv(one, 1) for one in targets]
    pair.source.send(sent, 1).wait(LATE_S)
    arriving[0].wait(LATE_S)
    torch.npu.empty_cache()
    with monkeypatch.context() as short:
        short.setenv("FAKECANN_MEMORY_MB", str(used() // MIB + 1))
        with pytest.raises(TransportError, match=r"staging it on the device failed: .*memory"):
            pair.source.send(sent, 1)
        with pytest.raises(TransportError, match="the source has left"):
            arriving[1].wait(LATE_S)
    assert bool((targets[0] == 5).all()) and not targets[1].cpu().any()
    again = open_pair(make_hccl())
    arriving[1] = again.replica.recv(targets[1], 1)
    again.source.send(sent, 1).wait(LATE_S)
    arriving[1].wait(LATE_S)
    assert bool((targets[1] == 5).all())
    again.abort()


def captured_while(work: Callable[[], object]) -> int:
    """Do something in a thread while this one captures a stream in the mode that vLLM Ascend has.
    What CANN says of the capture: 0 when it went well."""
    cann = ctypes.CDLL("libascendcl.so")
    stream = ctypes.c_void_p(torch.npu.Stream("npu:0").npu_stream)
    assert cann.aclmdlRICaptureBegin(stream, 0) == 0
    try:
        work()
    finally:
        code: int = cann.aclmdlRICaptureEnd(stream, ctypes.byref(ctypes.c_void_p()))
    return code


def copies_in(make: Callable[..., threading.Thread]) -> None:
    """To the device and back, in such a thread. Raises what torch_npu does."""

    def copy() -> int:
        return int(torch.ones(8, dtype=torch.uint8).to("npu:0").cpu().sum())

    result: Future[int] = Future()
    thread = make(target=lambda: do(copy, result), name="copies")
    thread.start()
    assert result.result(LATE_S) == 8


def test_only_our_threads_may_copy_beside_a_capture() -> None:
    backends_for("npu")
    assert captured_while(lambda: copies_in(TransferThread)) == 0
    # What a serving model is kept from.
    with pytest.raises(RuntimeError, match="107030"):
        captured_while(lambda: copies_in(threading.Thread))


@pytest.mark.parametrize("transport", ["hccl", "tcp"])
def test_a_whole_pull_leaves_a_capture_whole(transport: str) -> None:
    """vLLM captures its graphs after the model has become a source."""
    weights, target = (capture(Toy(seed).to("npu:0"), chunk_bytes=CHUNK) for seed in (3, None))
    backends = backends_for("npu", [transport])
    source = start_source(LATE_S)
    try:
        source.serve(offer_of(weights, backends=backends))
        pull = pull_into(target, backends=backends, timeout_s=LATE_S)
        assert captured_while(lambda: pull_from(pull, candidate(source))) == 0
    finally:
        source.close()
    assert target.sha256() == weights.sha256()


def test_host_memory_is_not_received_into(pair: GroupPair) -> None:
    with pytest.raises(TransportError, match=r"receive of 4 bytes .* device memory only"):
        pair.replica.recv(torch.zeros(4, dtype=torch.uint8), 1)


def test_a_transfer_begins_after_what_its_thread_had_begun(pair: GroupPair) -> None:
    side = torch.npu.Stream("npu:0")
    data = torch.zeros(16 * MIB, dtype=torch.uint8, device="npu:0")
    ones = torch.ones(16 * MIB, dtype=torch.uint8).pin_memory()
    torch.npu.synchronize()
    target = torch.zeros_like(data)
    arriving = pair.replica.recv(target, 1)
    with torch.npu.stream(side):
        data.copy_(ones, non_blocking=True)
        leaving = pair.source.send(data, 1)
    leaving.wait(LATE_S)
    arriving.wait(LATE_S)
    assert bool((target == 1).all())


def test_a_peer_that_goes_while_hccl_waits_for_it_is_missed_at_once() -> None:
    """It has met the source, and will never make its communicator."""
    rendezvous = Rendezvous("127.0.0.1", LATE_S)
    source = started(lambda: rendezvous.open(make_hccl()))
    met = threading.Event()

    class Goes:
        name = "goes"
        connections = 1

        def open(self, store, rank, host, timeout):  # type: ignore[no-untyped-def]
            store.get("netloader/hccl")
            met.set()
            raise TransportError("goes")

    with pytest.raises(TransportError, match="goes"):
        join("127.0.0.1", rendezvous.port, rendezvous.secret, Goes(), LATE_S)
    assert met.is_set()
    until(source.done, LATE_S)
    assert "the replica has left" in str(source.exception())
