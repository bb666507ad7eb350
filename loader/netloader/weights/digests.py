"""Digests that are fixed when weights are loaded and checked whenever weights arrive somewhere.

A digest covers a chunk as it travels, including the zeros between its tensors. It is made where the
bytes are. Host memory gets XXH3-128, an order of magnitude faster than any wire here. Accelerator
memory gets `reduce`, integer arithmetic with the same result on every device. A replica verifies by
the kind of its source, whatever memory it has itself. Both kinds find every accident. Neither is a
defence against a peer that forges weights on purpose; the mesh's key keeps such peers out.

The reduction reads memory as 64-bit little-endian lanes in blocks of `BLOCK_BYTES`, the last one
padded with zeros. For each block it computes, modulo 2**64, with `fold(x) = x ^ (x >> 32)` and m(i)
as the odd multiplier of the i-th lane in a block:

    p(i) = fold(x(i) * _SPREAD) * m(i)
    sums = (sum of p(i), sum of fold(p(i)))

The digest is the XXH3-128 of the length in bytes and the sums of all blocks, in order. Every step
on a lane can be undone, so a change within one lane always shows. The multipliers and the order of
the sums make the places of lanes and blocks matter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, get_args

import torch
import xxhash

from netloader.system import affinity
from netloader.weights.capture import DigestKind, Weights, host_buffer
from netloader.weights.manifest import Chunk

DIGEST_BYTES = 16

KINDS: Final[tuple[DigestKind, ...]] = get_args(DigestKind)
"""All kinds that this version computes, on any device."""

_THREADS = 4

_LANE_BYTES = 8
BLOCK_BYTES = 4 * 1024 * 1024
"""A reduction takes twice this much memory. Blocks are large enough that starting a kernel costs
less than running it."""

_SPREAD = -0x61C8864680B583EB
"""Odd, with bits that look random: 2**64 divided by the golden ratio, as a signed number."""
_MIX = -0x40A7B892E31B1A47
"""Odd, from the finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, 2014), as a signed number."""


def kind_of(weights: Weights) -> DigestKind:
    """How the digests of `weights` are computed."""
    return weights.digest_kind or _natural(weights.device_type)


def of_bytes(data: torch.Tensor, kind: DigestKind | None = None) -> bytes:
    """Digest of a flat uint8 tensor; without a `kind`, the one that suits its memory. Releases the
    GIL."""
    if (kind or _natural(data.device.type)) == "reduce":
        return reduce(data)
    return xxhash.xxh3_128_digest(_host_buffer(data))


def of_chunk(weights: Weights, chunk: Chunk) -> bytes:
    """Digest of one chunk as it would travel, read where its tensors lie.

    `kind_of` selects the digest, even if originals lie in another kind of memory.
    """
    in_place = weights.contiguous(chunk)
    if any(piece.tensor in weights.recast for piece in chunk.pieces):
        in_place = weights.pack(chunk, weights.staging())
    if kind_of(weights) == "reduce":
        parts = [(piece.offset, weights.view(piece)) for piece in chunk.pieces]
        if in_place is not None:
            parts = [(0, in_place)]
        return _reduce(parts, chunk.nbytes, BLOCK_BYTES)
    if in_place is not None:
        return xxhash.xxh3_128_digest(_host_buffer(in_place))
    digest = xxhash.xxh3_128()
    end = 0
    for piece in chunk.pieces:
        digest.update(bytes(piece.offset - end))
        digest.update(_host_buffer(weights.view(piece)))
        end = piece.offset + piece.nbytes
    return digest.digest()


def of_weights(weights: Weights, chunks: Sequence[Chunk]) -> tuple[bytes, ...]:
    """Digests of `chunks`, in their order. Reads every byte once; host memory on a few threads."""
    if weights.device_type != "cpu":
        # In the caller's thread: another thread has its own stream, where bytes still being written
        # may not be visible yet.
        return tuple(of_chunk(weights, chunk) for chunk in chunks)
    # No inference runs yet, so use more than the core that vLLM has bound this thread to.
    threads = min(_THREADS, len(affinity.original()) or 1)
    with ThreadPoolExecutor(
        threads, f"{affinity.OURS}digest", initializer=lambda: affinity.step_aside(background=False)
    ) as pool:
        return tuple(pool.map(lambda chunk: of_chunk(weights, chunk), chunks))


def _natural(device_type: str) -> DigestKind:
    """The kind that is fastest where the bytes are."""
    return "xxh3" if device_type == "cpu" else "reduce"


def _host_buffer(data: torch.Tensor) -> memoryview:
    """The memory of a flat uint8 tensor, copied to the host if it is not there."""
    return host_buffer(data.cpu())


def reduce(data: torch.Tensor, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Digest of a flat uint8 tensor on any device, by the reduction described above.

    Takes memory for two blocks on that device, and waits for the device once. `block_bytes` must be
    a multiple of a lane's size; another value gives other digests.
    """
    return _reduce([(0, data)], data.numel(), block_bytes)


def _reduce(parts: Sequence[tuple[int, torch.Tensor]], nbytes: int, block_bytes: int) -> bytes:
    """Reduce `nbytes` made of flat `parts` at the given offsets, with zeros between them."""
    device = parts[0][1].device
    block_bytes = min(block_bytes, -(-max(nbytes, 1) // _LANE_BYTES) * _LANE_BYTES)
    lanes = torch.empty(block_bytes // _LANE_BYTES, dtype=torch.int64, device=device)
    multipliers = _multipliers(lanes.numel(), device)
    sums: list[torch.Tensor] = []
    for first in range(0, nbytes, block_bytes):
        _read(parts, first, lanes.view(torch.uint8))
        lanes.mul_(_SPREAD)
        _fold(lanes)
        lanes.mul_(multipliers)
        sums.append(lanes.sum())
        _fold(lanes)
        sums.append(lanes.sum())
    found: Iterable[int] = torch.stack(sums).tolist() if sums else ()
    return xxhash.xxh3_128_digest(struct.pack(f"<Q{len(sums)}q", nbytes, *found))


def _read(parts: Sequence[tuple[int, torch.Tensor]], first: int, block: torch.Tensor) -> None:
    """Copy the bytes from `first` on into `block`, with zeros where no part lies."""
    covered = 0
    end = first + block.numel()
    for offset, data in parts:
        start, stop = max(offset, first), min(offset + data.numel(), end)
        if start < stop:
            block[covered : start - first].zero_()
            block[start - first : stop - first].copy_(data[start - offset : stop - offset])
            covered = stop - first
    block[covered:].zero_()


def _multipliers(count: int, device: torch.device) -> torch.Tensor:
    """The first `count` multipliers: numbered lanes, mixed until they look random, made odd.

    Made anew each time: vLLM's sleep mode may take away memory kept on an accelerator.
    """
    made = torch.arange(1, count + 1, dtype=torch.int64, device=device).mul_(_SPREAD)
    for _ in range(2):
        _fold(made)
        made.mul_(_MIX)
    _fold(made)
    return made.bitwise_or_(1)


def _fold(lanes: torch.Tensor) -> None:
    """x ^ (x >> 32) of unsigned lanes, in place: the upper half of each onto the lower."""
    # Uses halves, because a shift would extend the sign.
    halves = lanes.view(torch.int32).view(-1, 2)
    halves[:, 0].bitwise_xor_(halves[:, 1])
