from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.loader.support import CHUNK, Toy, toy_weights

from netloader.terms import KeepMode
from netloader.weights import digests
from netloader.weights.capture import DigestKind, Weights, capture
from netloader.weights.coalesce import arrange
from netloader.weights.retain import keep, settle

WORD = 1 << 64
SPREAD = 0x9E3779B97F4A7C15
MIX = 0xBF58476D1CE4E5B9
SMALL = 64
"""Bytes of a block of eight lanes, so that little data has many."""


def test_digest_is_xxh3_of_the_bytes() -> None:
    assert digests.of_bytes(torch.tensor([1, 2], dtype=torch.uint8)) == xxhash.xxh3_128_digest(
        b"\x01\x02"
    )


@pytest.mark.parametrize("device_type", ["cpu", "accelerator"])
def test_chunk_has_the_same_digest_in_place_and_as_it_travels(device_type: str) -> None:
    weights = dataclasses.replace(toy_weights(1), device_type=device_type)
    of_travelled = digests.of_bytes if device_type == "cpu" else digests.reduce
    staging = torch.full((CHUNK,), 0xFF, dtype=torch.uint8)
    for chunk in weights.manifest.chunks():
        assert digests.of_chunk(weights, chunk) == of_travelled(weights.pack(chunk, staging))


@pytest.mark.parametrize("device_type", ["cpu", "accelerator"])
def test_chunk_has_the_same_digest_scattered_and_in_one_run(device_type: str) -> None:
    scattered = dataclasses.replace(toy_weights(1), device_type=device_type)
    arranged = dataclasses.replace(arrange(Toy(1), CHUNK), device_type=device_type)
    chunks = scattered.manifest.chunks()
    assert any(scattered.contiguous(chunk) is None for chunk in chunks)
    assert all(arranged.contiguous(chunk) is not None for chunk in chunks)
    assert digests.of_weights(scattered, chunks) == digests.of_weights(arranged, chunks)


def test_originals_kept_elsewhere_are_digested_as_the_model_was() -> None:
    weights = toy_weights(1)
    kept = Weights(weights.manifest, weights.tensors, "accelerator")
    chunk = next(chunk for chunk in weights.manifest.chunks() if not chunk.packed)
    assert digests.of_chunk(kept, chunk) == digests.reduce(weights.view(chunk.pieces[0]))
    assert digests.of_chunk(kept, chunk) != digests.of_chunk(weights, chunk)


@pytest.mark.parametrize("kind", digests.KINDS)
def test_weights_from_a_source_have_its_kind_of_digests(kind: DigestKind) -> None:
    weights = dataclasses.replace(toy_weights(1), digest_kind=kind)
    chunks = weights.manifest.chunks()
    staging = torch.full((CHUNK,), 0xFF, dtype=torch.uint8)
    assert digests.of_weights(weights, chunks) == tuple(
        digests.of_bytes(weights.pack(chunk, staging), kind) for chunk in chunks
    )


@pytest.mark.parametrize("kind", digests.KINDS)
@pytest.mark.parametrize("mode", [KeepMode.NO, KeepMode.DRAM])
def test_what_is_kept_of_them_has_the_same_digests(kind: DigestKind, mode: KeepMode) -> None:
    model = Toy(1)
    weights = dataclasses.replace(capture(model, chunk_bytes=CHUNK), digest_kind=kind)
    promised = digests.of_weights(weights, weights.manifest.chunks())
    kept = settle(keep(weights, mode, None), model).weights
    assert digests.kind_of(kept) == kind
    assert digests.of_weights(kept, kept.manifest.chunks()) == promised


@pytest.mark.parametrize("device_type", ["cpu", "accelerator"])
def test_digests_of_all_chunks_are_in_order_of_their_ids(device_type: str) -> None:
    weights = dataclasses.replace(toy_weights(1), device_type=device_type)
    chunks = weights.manifest.chunks()
    found = digests.of_weights(weights, chunks)
    assert found == tuple(digests.of_chunk(weights, chunk) for chunk in chunks)
    assert {len(digest) for digest in found} == {digests.DIGEST_BYTES}


@pytest.mark.parametrize("device_type", ["cpu", "accelerator"])
def test_one_changed_bit_changes_its_chunk_only(device_type: str) -> None:
    weights = dataclasses.replace(toy_weights(1), device_type=device_type)
    chunks = weights.manifest.chunks()
    before = digests.of_weights(weights, chunks)
    weights.view(chunks[3].pieces[0])[0] ^= 1
    after = digests.of_weights(weights, chunks)
    assert [number for number in range(len(chunks)) if before[number] != after[number]] == [3]


def test_no_chunks_have_no_digests() -> None:
    assert digests.of_weights(toy_weights(), ()) == ()


def test_captured_weights_know_their_device() -> None:
    assert capture(torch.nn.Linear(2, 2)).device_type == "cpu"


def fold(value: int) -> int:
    return value ^ value >> 32


def multiplier(lane: int) -> int:
    made = (lane + 1) * SPREAD % WORD
    for _ in range(2):
        made = fold(made) * MIX % WORD
    return fold(made) | 1


def reference(data: bytes, block: int) -> bytes:
    """The reduction in plain integers, as the module's docstring says it."""
    sums = []
    for first in range(0, len(data), block):
        part = data[first : first + block]
        part += bytes(-len(part) % 8)
        one = two = 0
        for lane, (value,) in enumerate(struct.iter_unpack("<Q", part)):
            product = fold(value * SPREAD % WORD) * multiplier(lane) % WORD
            one += product
            two += fold(product)
        sums += [one % WORD, two % WORD]
    return xxhash.xxh3_128_digest(struct.pack(f"<Q{len(sums)}Q", len(data), *sums))


def flat(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def reduce(data: torch.Tensor) -> bytes:
    return digests.reduce(data, SMALL)


class TestReduction:
    @settings(max_examples=300)
    @given(data=st.binary(max_size=400))
    def test_is_what_it_says(self, data: bytes) -> None:
        assert reduce(flat(data)) == reference(data, SMALL)

    @pytest.mark.parametrize("value", [0x00, 0x80, 0xFF])
    def test_of_bytes_at_the_ends_of_the_range(self, value: int) -> None:
        data = bytes([value]) * 333
        assert reduce(flat(data)) == reference(data, SMALL)

    @given(data=st.binary(min_size=1, max_size=200), at=st.integers(0), flip=st.integers(1, 255))
    def test_finds_a_changed_byte(self, data: bytes, at: int, flip: int) -> None:
        changed = bytearray(data)
        changed[at % len(data)] ^= flip
        assert reduce(flat(data)) != reduce(flat(bytes(changed)))

    @given(data=st.binary(max_size=200), more=st.integers(1, 100))
    def test_finds_added_and_missing_zeros(self, data: bytes, more: int) -> None:
        assert reduce(flat(data)) != reduce(flat(data + bytes(more)))

    @given(data=st.binary(min_size=1, max_size=200))
    def test_finds_missing_bytes(self, data: bytes) -> None:
        assert reduce(flat(data)) != reduce(flat(data[:-1]))

    @pytest.mark.parametrize("bit", range(64))
    def test_finds_swapped_lanes_that_differ_in_one_bit(self, bit: int) -> None:
        """The sign of a number, say: a plain weighted sum loses the highest bit."""
        base = torch.randint(-(1 << 62), 1 << 62, (8,), generator=torch.Generator().manual_seed(3))
        for one in range(8):
            for other in range(one):
                lanes = base.clone()
                lanes[other] = lanes[one] ^ (1 << bit if bit < 63 else -(1 << 63))
                swapped = lanes.clone()
                swapped[one], swapped[other] = lanes[other], lanes[one]
                assert reduce(lanes.view(torch.uint8)) != reduce(swapped.view(torch.uint8))

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: torch.cat([t[64:128], t[:64], t[128:]]),
            lambda t: torch.cat([t[8:], t[:8]]),
            lambda t: torch.cat([t[1:], t[:1]]),
            lambda t: t.flip(0),
            lambda t: t.view(-1, 8).flip(0).reshape(-1),
            lambda t: t.view(-1, 4).flip(1).reshape(-1),
            lambda t: t.bitwise_not(),
            lambda t: t.view(torch.int16).neg().view(torch.uint8),
            lambda t: torch.zeros_like(t),
        ],
        ids=[
            "blocks swapped",
            "shifted by a lane",
            "shifted by a byte",
            "reversed",
            "lanes reversed",
            "byte order",
            "inverted",
            "negated",
            "zeros",
        ],
    )
    def test_finds_rearranged_data(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        data = torch.randint(
            0, 256, (256,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
        )
        assert reduce(change(data)) != reduce(data)

    def test_has_no_collision_in_many_small_tensors(self) -> None:
        """Numbers as weights hold them: few bits set, many alike."""
        found = set()
        for value in (0.0, -0.0, 1.0, -1.0, 0.5):
            for at in range(64):
                data = torch.zeros(64, dtype=torch.bfloat16)
                data[at] = value
                found.add((reduce(data.view(torch.uint8)), value == 0 and at))
        assert len({digest for digest, _ in found}) == 1 + 64 * 4

    def test_of_unaligned_memory(self) -> None:
        memory = torch.arange(200, dtype=torch.uint8)
        assert reduce(memory[3:100]) == reduce(memory[3:100].clone())

    def test_does_not_write(self) -> None:
        memory = torch.arange(200, dtype=torch.uint8)
        reduce(memory)
        assert torch.equal(memory, torch.arange(200, dtype=torch.uint8))


def test_reduction_in_blocks_of_the_real_size() -> None:
    data = torch.randint(
        0,
        256,
        (digests.BLOCK_BYTES + 40_001,),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(1),
    )
    assert digests.reduce(data) == reference(bytes(data.numpy()), digests.BLOCK_BYTES)


def test_reduction_stays_as_it_is() -> None:
    """Peers of another release must come to the same."""
    data = torch.arange(100_000).to(torch.uint8)
    assert digests.reduce(data).hex() == "7fb69f17f1bcd9ed9f74f0f27fbe82ca"
