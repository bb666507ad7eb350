"""What arrives, in which order, and where."""

from __future__ import annotations

import pytest
import torch
from tests.loader.transport.carriers import Carrier, GroupPair, open_pair
from tests.loader.transport.conformance.support import KIB, LATE_S, MIB, moved

from netloader.transport import Pending

SIZES = (0, 1, 3, 64, 65, 4097, 64 * KIB, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 40 * MIB + 12_345)
"""Nothing, the least, odd ones, pages, a chunk of the tests, and both sides of where a message is
cut in two."""


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_message_of_any_size_arrives_whole(
    carrier: Carrier, pair: GroupPair, nbytes: int
) -> None:
    data, target = carrier.pattern(nbytes), carrier.zeros(nbytes)
    moved(pair, data, target)
    assert torch.equal(data, target)


def test_messages_of_one_tag_keep_their_order_whatever_their_sizes(
    carrier: Carrier, pair: GroupPair
) -> None:
    sizes = (100, 8 * MIB, 0, 7, 16 * MIB + 1, 5000, 8 * MIB)
    targets = [carrier.zeros(size) for size in sizes]
    arriving = [pair.replica.recv(target, 9) for target in targets]
    leaving = [
        pair.source.send(carrier.filled(size, number + 1), 9) for number, size in enumerate(sizes)
    ]
    for pending in arriving + leaving:
        pending.wait(LATE_S)
    for number, target in enumerate(targets):
        assert bool((target == number + 1).all())


@pytest.mark.parametrize("receives_first", [True, False])
def test_several_tags_may_be_interleaved(
    carrier: Carrier, pair: GroupPair, receives_first: bool
) -> None:
    messages = [(tag, 1000 * tag + number) for number in range(20) for tag in (3, 4, 900_000)]
    data = [carrier.pattern(4096 + seed % 777, seed) for _, seed in messages]
    targets = [torch.zeros_like(one) for one in data]

    def receive() -> list[Pending]:
        return [
            pair.replica.recv(target, tag)
            for (tag, _), target in zip(messages, targets, strict=True)
        ]

    def send() -> list[Pending]:
        return [pair.source.send(one, tag) for (tag, _), one in zip(messages, data, strict=True)]

    under_way = receive() + send() if receives_first else send() + receive()
    for pending in under_way:
        pending.wait(LATE_S)
    assert all(map(torch.equal, data, targets))


def test_both_ends_may_send_at_once(carrier: Carrier, pair: GroupPair) -> None:
    data = [carrier.pattern(20 * MIB, seed) for seed in (1, 2)]
    targets = [torch.zeros_like(one) for one in data]
    under_way = [
        pair.source.recv(targets[1], 5),
        pair.replica.recv(targets[0], 5),
        pair.source.send(data[0], 5),
        pair.replica.send(data[1], 5),
    ]
    for pending in under_way:
        pending.wait(LATE_S)
    assert all(map(torch.equal, data, targets))


def test_views_of_one_tensor_travel_in_place_and_nothing_beside_them_is_touched(
    carrier: Carrier, pair: GroupPair
) -> None:
    data, target = carrier.pattern(9 * MIB + 100), carrier.filled(9 * MIB + 100, 0xAA)
    expected = target.clone()
    cuts = [(1, 2), (3, 4000), (4001, 70_000), (70_003, 8 * MIB + 70_003), (9 * MIB, 9 * MIB)]
    arriving = [pair.replica.recv(target[start:end], 1) for start, end in cuts]
    leaving = [pair.source.send(data[start:end], 1) for start, end in cuts]
    for pending in arriving + leaving:
        pending.wait(LATE_S)
    for start, end in cuts:
        expected[start:end] = data[start:end]
    assert torch.equal(target, expected)


def test_a_transfer_keeps_its_tensor_alive(carrier: Carrier, pair: GroupPair) -> None:
    sending = pair.source.send(carrier.filled(4 * MIB, 7), 1)
    rubbish = [carrier.filled(4 * MIB, 9) for _ in range(8)]  # Would take its place in memory.
    target = carrier.zeros(4 * MIB)
    pair.replica.recv(target, 1).wait(LATE_S)
    sending.wait(LATE_S)
    assert bool((target == 7).all())
    del rubbish


def test_groups_of_one_backend_do_not_mix(carrier: Carrier) -> None:
    backend = carrier.make()
    pairs = [open_pair(backend) for _ in range(3)]
    targets = [carrier.zeros(1000) for _ in pairs]
    arriving = [one.replica.recv(target, 1) for one, target in zip(pairs, targets, strict=True)]
    for number, one in reversed(list(enumerate(pairs))):
        one.source.send(carrier.filled(1000, number + 1), 1).wait(LATE_S)
    for pending in arriving:
        pending.wait(LATE_S)
    assert [target.unique().tolist() for target in targets] == [[1], [2], [3]]
    for one in pairs:
        one.abort()


def test_a_group_is_not_in_torchs_registry(pair: GroupPair) -> None:
    assert not torch.distributed.is_initialized()
