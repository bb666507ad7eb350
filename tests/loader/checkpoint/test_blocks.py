from __future__ import annotations

import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fastest import HANG_S
from tests.loader.trees import of, sparse

from netloader.checkpoint.blocks import (
    BLOCK,
    BUDGET,
    GAP,
    MOST_BLOCKS,
    PIECE,
    WHOLE,
    Places,
    Reading,
    blocks_each,
    entire,
    read_blocks,
    sampled,
)
from netloader.checkpoint.evidence import sample
from netloader.checkpoint.files import stamps
from netloader.errors import IdentityError

SIZES = st.one_of(st.integers(0, 100_000), st.integers(0, 1 << 40))


def test_few_tensors_are_read_at_many_places_and_many_at_one() -> None:
    assert blocks_each(0) == blocks_each(1) == blocks_each(300) == MOST_BLOCKS
    assert blocks_each(10_000) == 3
    assert blocks_each(100_000) == blocks_each(10_000_000) == 1


@given(st.integers(0, 10**7))
def test_blocks_stay_within_the_budget(tensors: int) -> None:
    assert tensors * blocks_each(tensors) <= max(BUDGET, tensors)
    assert blocks_each(tensors) >= blocks_each(tensors + 1) >= 1


@given(st.binary(max_size=20), SIZES, st.integers(1, 16))
def test_sample_lies_within_the_tensor_ascending_and_apart(
    about: bytes, size: int, blocks: int
) -> None:
    places = sampled(about, size, blocks)
    assert places == sampled(about, size, blocks)
    assert len(places) <= blocks
    assert all(length > 0 and at >= 0 for at, length in places)
    assert all(at + length <= after for (at, length), (after, _) in pairwise(places))
    if size <= WHOLE:
        assert places == ([(0, size)] if size else [])
    else:
        assert places[-1][0] + places[-1][1] <= size
        assert sum(length for _, length in places) >= min(size, blocks * BLOCK)
    if blocks >= 3 and size:
        assert places[0][0] == 0
        assert sum(places[-1]) == size


def test_places_are_others_for_other_tensors() -> None:
    assert len({sampled(b"%d" % at, 1 << 30, 1)[0] for at in range(100)}) == 100


@given(st.integers(0, 5 * PIECE))
def test_everything_is_read_in_pieces(size: int) -> None:
    places = entire(b"", size, 1)
    assert sum(length for _, length in places) == size
    assert all(length <= PIECE for _, length in places)
    assert all(at + length == after for (at, length), (after, _) in pairwise(places))


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, GAP, GAP + 1, 10**9]), st.sampled_from([1, 1024, PIECE]))
    )
)
def test_runs_have_every_block_once_and_are_bounded(rows: list[tuple[int, int]]) -> None:
    places, at = Places(), 0
    for gap, size in rows:
        places.add(at + gap, [(0, size)])
        at += gap + size
    runs = list(places.runs())
    assert [index for first, behind, _, _ in runs for index in range(first, behind)] == list(
        range(len(rows))
    )
    for first, behind, start, length in runs:
        assert start == places.begins[first]
        assert start + length == places.begins[behind - 1] + places.sizes[behind - 1]
        assert length <= PIECE
        for before, after in pairwise(range(first, behind)):
            assert places.begins[after] - places.begins[before] - places.sizes[before] <= GAP


def test_blocks_come_in_order_whatever_reads_them_together(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1024)
    places = Places()
    for at in range(1, 250_000, 10_007):
        places.add(at, [(0, 3)])
    (stamp,) = stamps(of([path]))
    (taken,) = read_blocks([(stamp, places)], Reading(4), bytes, 3)
    assert taken == b"".join(bytes((at + n) % 256 for n in range(3)) for at in places.begins)


def test_64_reads_wait_at_once(tmp_path: Path) -> None:
    """Each blocks until all 64 are under way: with fewer threads nobody would go on."""
    files = of([sparse(tmp_path / "a.safetensors", [str(at) for at in range(640)], 4 << 20)])
    together = threading.Event()
    everybody = threading.Barrier(64, action=together.set)

    def waiting(file: int, size: int, offset: int) -> bytes:
        # Only blocks of tensors: the header is read by one thread.
        if size == BLOCK and not together.is_set():
            everybody.wait(HANG_S)
        return os.pread(file, size, offset)

    sample(files, reading=Reading(pread=waiting))
    assert together.is_set()


@pytest.mark.parametrize("threads", [1, 5])
def test_work_is_done_once_for_every_item_and_told_in_order(threads: int) -> None:
    assert Reading(threads).over(lambda item: item * item, range(100)) == [
        item * item for item in range(100)
    ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be placed here")
def test_small_work_shares_a_core_and_the_caller_stays_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    cores = Reading(4).over(lambda _: frozenset(os.sched_getaffinity(0)), range(100), small=True)
    assert len(set(cores)) == 1
    assert len(cores[0]) == 1
    assert os.sched_getaffinity(0) == before


def test_failure_of_one_ends_the_others() -> None:
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise IdentityError("broken")
        done.append(item)

    with pytest.raises(IdentityError, match="broken"):
        Reading(1).over(work, range(100_000))
    assert done == [0, 1, 2]
    with pytest.raises(IdentityError, match="broken"):
        Reading(8).over(work, range(100_000))
    assert "netloader-evidence" not in [thread.name for thread in threading.enumerate()]


def test_without_any_further_thread_the_work_is_done_all_the_same() -> None:
    assert Reading(0).over(str, [1, 2]) == ["1", "2"]
