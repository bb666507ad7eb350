"""What is particular to HCCL groups. `tests/loader/transport/conformance` has the rest."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import torch

from netloader.transport import Rendezvous, TransportError, join
from tests.loader.support import until
from tests.loader.transport.carriers import GroupPair, make_hccl, open_pair, started

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
    dialled = threading.Event()

    class Goes:
        name = "goes"

        def open(self, store, rank, host, timeout):  # type: ignore[no-untyped-def]
            port, password, where = store.get("netloader/line").decode().split(" ", 2)
            with socket.create_connection((where, int(port)), LATE_S) as line:
                line.sendall(password.encode())
                store.set("netloader/line/dialled", "")
                store.get("netloader/hccl")
                dialled.set()
            raise TransportError("goes")

    with pytest.raises(TransportError, match="goes"):
        join("127.0.0.1", rendezvous.port, rendezvous.secret, Goes(), LATE_S)
    assert dialled.is_set()
    until(source.done, LATE_S)
    assert "the replica has left" in str(source.exception())
