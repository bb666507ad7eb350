"""torch_npu's ProcessGroupHCCL between two processes: order, sizes, types, collectives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.ascend.pairs import DTYPES, Pair, digest, started


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two ranks for all tests of this file. Each test finishes what it began."""
    with started(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_arrive_as_they_are(pair: Pair, dtype: str) -> None:
    pair.transfer(0, 1, count=1000, dtype=dtype, seed=3)
    assert pair[1].ask("digest", name="in") == digest(1000, dtype, 3)


@pytest.mark.parametrize("count", [0, 1, 511, 4097, 8 << 20])
def test_sizes_from_nothing_to_more_than_any_buffer(pair: Pair, count: int) -> None:
    pair.transfer(1, 0, count=count, dtype="uint8", seed=5)
    assert pair[0].ask("digest", name="in") == digest(count, "uint8", 5)


def test_transfers_keep_their_order(pair: Pair) -> None:
    for number in range(20):
        pair[0].ask("fill", name=f"out{number}", count=64, dtype="int64", seed=number)
        pair[1].ask("fill", name=f"in{number}", count=64, dtype="int64", seed=99)
    # HCCL has no tags: the first receive gets the first send.
    for number in range(20):
        pair[0].ask("send", name=f"out{number}", to=1)
        pair[1].ask("receive", name=f"in{number}", source=0)
    pair.wait()
    for number in range(20):
        assert pair[1].ask("digest", name=f"in{number}") == digest(64, "int64", number)


def test_a_receive_is_not_over_before_somebody_waited(pair: Pair) -> None:
    pair[0].ask("fill", name="out", count=1000, dtype="float32", seed=1)
    pair[1].ask("fill", name="in", count=1000, dtype="float32", seed=2)
    pair[1].ask("receive", name="in", source=0)
    # The current stream was not told to wait, so it still reads the old bytes.
    assert pair[1].ask("digest", name="in") == digest(1000, "float32", 2)
    pair[0].ask("send", name="out", to=1)
    pair.wait()
    assert pair[1].ask("digest", name="in") == digest(1000, "float32", 1)


def test_a_batch_sends_and_receives_at_once(pair: Pair) -> None:
    for rank in (0, 1):
        pair[rank].ask("fill", name="out", count=5000, dtype="bfloat16", seed=10 + rank)
        pair[rank].ask("fill", name="in", count=5000, dtype="bfloat16", seed=0)
        pair[rank].say(do="exchange", outgoing="out", incoming="in", peer=1 - rank)
    for rank in (0, 1):
        pair[rank].answer()
    pair.wait()
    for rank in (0, 1):
        assert pair[rank].ask("digest", name="in") == digest(5000, "bfloat16", 11 - rank)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int32", "int8"])
@pytest.mark.parametrize("how", ["SUM", "MAX", "MIN"])
def test_all_reduce(pair: Pair, dtype: str, how: str) -> None:
    pair.everywhere("fill", [{"name": "x", "count": 61, "dtype": dtype, "seed": r} for r in (1, 2)])
    pair.everywhere("all_reduce", [{"name": "x", "how": how}] * 2)
    pair.wait()
    a, b = (pair.pattern(61, dtype, seed) for seed in (1, 2))
    wanted = {"SUM": a + b, "MAX": torch.maximum(a, b), "MIN": torch.minimum(a, b)}[how]
    for rank in (0, 1):
        assert pair[rank].ask("values", name="x") == wanted.double().tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_sum_of_half_floats_is_rounded_once_to_the_nearest(pair: Pair, dtype: str) -> None:
    generator = torch.Generator().manual_seed(7)
    made = torch.randn(2, 2000, generator=generator) * torch.logspace(-9, 4, 2000)
    a, b = made.to(getattr(torch, dtype))
    pair.everywhere("put", [{"name": "x", "values": t.tolist(), "dtype": dtype} for t in (a, b)])
    pair.everywhere("all_reduce", [{"name": "x", "how": "SUM"}] * 2)
    pair.wait()
    wanted = (a.float() + b.float()).to(a.dtype)
    assert pair[0].ask("values", name="x") == wanted.double().tolist()


def test_all_gather_reduce_scatter_and_broadcast(pair: Pair) -> None:
    given = [{"name": "x", "count": 40, "dtype": "bfloat16", "seed": r} for r in (0, 1)]
    pair.everywhere("fill", given)
    pair.everywhere("all_gather", [{"name": "x", "out": "all"}] * 2)
    pair.everywhere("reduce_scatter", [{"name": "x", "out": "part"}] * 2)
    pair.wait()
    a, b = (pair.pattern(40, "bfloat16", rank) for rank in (0, 1))
    for rank in (0, 1):
        everything = torch.cat((a, b)).double().tolist()
        assert pair[rank].ask("values", name="all") == everything
        part = (a + b)[20 * rank : 20 * rank + 20].double().tolist()
        assert pair[rank].ask("values", name="part") == part
    pair.everywhere("broadcast", [{"name": "x", "root": 1}] * 2)
    pair.wait()
    assert pair[0].ask("digest", name="x") == digest(40, "bfloat16", 1)


def test_a_communicator_takes_device_memory_and_gives_it_back(tmp_path: Path) -> None:
    with started(tmp_path, env={"P2P_HCCL_BUFFSIZE": "8"}) as pair:
        pair.everywhere("fill", [{"name": "x", "count": 8, "dtype": "int8", "seed": 0}] * 2)
        before = pair[0].ask("free_memory")
        pair.transfer(0, 1, count=8, dtype="int8", seed=1)
        assert before - pair[0].ask("free_memory") >= 2 * 8 << 20
        pair.everywhere("abort_group", [{}, {}])
        assert before - pair[0].ask("free_memory") < 2 * 8 << 20
