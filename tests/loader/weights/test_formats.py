from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netloader.weights.formats import Recast, flat_bytes, may_share_storages, recasts

SHAPES = [(6, 4), (1, 7), (7, 1), (3, 5, 4), (2, 3, 2, 5)]


def loaded(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


def only(now: torch.Tensor, was: torch.Tensor) -> Recast:
    (found,) = recasts(now, was.dtype, tuple(was.shape), threading.Lock())
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32], ids=str)
def test_swapped_dimensions_are_swapped_back(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    was = loaded(shape, dtype)
    now = was.transpose(-1, -2).contiguous()
    assert torch.equal(only(now, was).whole(), flat_bytes(was))


def test_a_view_with_swapped_dimensions_is_read_as_it_lies() -> None:
    was = loaded((6, 4))
    assert torch.equal(only(was.clone().transpose(0, 1), was).whole(), flat_bytes(was))


@settings(max_examples=200)
@given(
    shape=st.sampled_from([*SHAPES, (12,)]),
    swapped=st.booleans(),
    cut=st.tuples(st.integers(0, 200), st.integers(0, 200)),
)
def test_any_run_of_bytes(shape: tuple[int, ...], swapped: bool, cut: tuple[int, int]) -> None:
    """Chunks are cut at bytes, so a run may begin and end within a row or an element."""
    was = loaded(shape)
    swapped = swapped and len(shape) > 1
    start, end = sorted(min(at, was.nbytes) for at in cut)
    target = torch.full((end - start,), 0xEE, dtype=torch.uint8)
    now = was.transpose(-1, -2).contiguous() if swapped else was.clone()
    Recast(now, shape, swapped, threading.Lock()).copy_to(target, start)
    assert torch.equal(target, flat_bytes(was)[start:end])


def test_a_square_matrix_may_have_been_turned_or_not() -> None:
    was = loaded((4, 4))
    found = recasts(was.t().contiguous(), was.dtype, (4, 4), threading.Lock())
    assert [one.is_swapped for one in found] == [False, True]
    assert [torch.equal(one.whole(), flat_bytes(was)) for one in found] == [False, True]


def test_bytes_under_another_integer_type() -> None:
    """W4A8: int8 that becomes int32."""
    was = loaded((8, 6), torch.int8)
    now = was.t().contiguous().view(torch.int32)
    assert now.shape == (6, 2)
    assert torch.equal(only(now, was).whole(), flat_bytes(was))


@pytest.mark.parametrize(
    "now",
    [
        torch.zeros(6, 4, dtype=torch.float16),
        torch.zeros(6, 5, dtype=torch.bfloat16),
        torch.zeros(24, dtype=torch.bfloat16),
        torch.zeros(6, 4, dtype=torch.int16),
        torch.zeros(6, 4, dtype=torch.bfloat16, device="meta"),
        torch.zeros(6, 4, dtype=torch.bfloat16).to_sparse(),
    ],
    ids=["another type", "padded", "flattened", "an integer", "without memory", "sparse"],
)
def test_what_cannot_hold_the_elements_is_no_candidate(now: torch.Tensor) -> None:
    assert recasts(now, torch.bfloat16, (6, 4), threading.Lock()) == ()


def test_it_reads_while_it_has_its_turn_and_not_before_or_after() -> None:
    """Each conversion may take memory for a whole tensor."""
    was = loaded((6, 4))
    target = torch.full((was.nbytes,), 0xEE, dtype=torch.uint8)
    seen: list[bool] = []

    @contextmanager
    def turn() -> Iterator[None]:
        seen.append(torch.equal(target, flat_bytes(was)))
        yield
        seen.append(torch.equal(target, flat_bytes(was)))

    Recast(was.clone(), (6, 4), False, turn()).copy_to(target)
    assert seen == [False, True]


@pytest.mark.parametrize(("device_type", "may"), [("cpu", True), ("cuda", True), ("npu", False)])
def test_tensors_share_no_storage_where_the_format_belongs_to_the_storage(
    device_type: str, may: bool
) -> None:
    assert may_share_storages(device_type) == may


def test_memory_is_told_for_the_rows_that_a_run_touches() -> None:
    was = loaded((6, 4))
    now = only(was.t().contiguous(), was)
    assert now.row_bytes == 8
    assert [now.memory_for(nbytes) for nbytes in (1, 16, 48)] == [17, 32, 48]
