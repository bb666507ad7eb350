"""What is particular to Gloo. What every transport has to do is in `conformance`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from tests.fastest import HANG_S, Stopwatch, took_less
from tests.loader.support import until
from tests.loader.transport.carriers import GroupPair, open_pair
from torch._C._distributed_c10d import HashStore

from netloader.transport import Pending, TransportError
from netloader.transport.gloo import GlooBackend, GlooGroup
from netloader.transport.stripes import LANES

LATE_S, PROMPT_S = HANG_S, 1.0


@pytest.fixture
def pair() -> Iterator[GroupPair]:
    made = open_pair(GlooBackend())
    yield made
    made.abort()


def bytes_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def fails_in(pending: Pending, timeout_s: float) -> float:
    watch = Stopwatch()
    with pytest.raises(TransportError):
        pending.wait(timeout_s)
    return watch.seconds()


def test_messages_are_told_apart_by_their_tag_whatever_the_order(pair: GroupPair) -> None:
    first, second = bytes_of(0), bytes_of(0)
    arriving = [pair.replica.recv(first, 10), pair.replica.recv(second, 20)]
    sent = [pair.source.send(bytes_of(2), 20), pair.source.send(bytes_of(1), 10)]
    for pending in arriving + sent:
        pending.wait(LATE_S)
    assert (first.item(), second.item()) == (1, 2)


def test_a_short_message_is_no_error_of_the_group(pair: GroupPair) -> None:
    # Digests have to find it, so the loader must never rely on the length.
    target = bytes_of(0, 0, 0)
    arriving = pair.replica.recv(target, 1)
    pair.source.send(bytes_of(5), 1).wait(LATE_S)
    arriving.wait(LATE_S)
    assert target.tolist() == [5, 0, 0]


def test_an_error_on_one_lane_breaks_the_other_too(pair: GroupPair) -> None:
    lanes = {tag % LANES: pair.source.recv(bytes_of(0), tag) for tag in range(LANES)}
    silent = pair.replica.recv(bytes_of(0), 4)  # On the first lane.
    fails_in(silent, 0.05)
    for waiting in lanes.values():
        took_less(fails_in(waiting, LATE_S), PROMPT_S)
    with pytest.raises(TransportError, match="aborted"):
        pair.replica.recv(bytes_of(0), 5)


def test_a_receiver_does_not_wait_out_its_timeout_for_half_a_message(pair: GroupPair) -> None:
    data = torch.ones(256 << 20, dtype=torch.uint8)
    target = torch.zeros_like(data)
    arriving = pair.replica.recv(target, 1)
    sending = pair.source.send(data, 1)
    until(lambda: bool(target[0]), LATE_S)
    pair.source.abort()
    took_less(fails_in(arriving, LATE_S), PROMPT_S)
    del sending


def test_abort_posts_nothing_that_a_peer_could_send_too_much_to() -> None:
    """A message longer than what was posted for it terminates the process that receives it."""
    posted: list[tuple[str, int]] = []

    class RecordingLanes:
        def send(self, tensors: list[torch.Tensor], rank: int, tag: int) -> None:
            posted.append(("send", tag))
            raise RuntimeError("closed")

        def recv(self, tensors: list[torch.Tensor], rank: int, tag: int) -> None:
            posted.append(("recv", tag))
            raise RuntimeError("closed")

    for _ in range(2):
        GlooGroup(RecordingLanes(), 1).abort()
    assert [what for what, _ in posted] == ["send"] * 2 * LANES
    assert len({tag for _, tag in posted}) == 2 * LANES  # Drawn anew: not to be guessed.


def test_what_gloo_refuses_to_start_breaks_the_group_and_is_told() -> None:
    class RefusingLanes:
        def send(self, tensors: list[torch.Tensor], rank: int, tag: int) -> None:
            raise RuntimeError("no buffer\nand a stack of C++")

        recv = send

    group = GlooGroup(RefusingLanes(), 1)
    with pytest.raises(TransportError, match=r"^send of 1 bytes \(tag 3\) to the replica: no buf"):
        group.send(bytes_of(1), 3)
    with pytest.raises(TransportError, match=r"receive .* aborted: send .* no buffer$"):
        group.recv(bytes_of(1), 4)


def test_an_address_that_is_not_ours_is_a_transport_error() -> None:
    with pytest.raises(TransportError, match="no Gloo group with the replica"):
        GlooBackend().open(HashStore(), 0, "192.0.2.1", timedelta(seconds=1))
