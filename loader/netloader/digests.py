"""Digests that are fixed when weights are loaded and checked whenever they arrive somewhere.

XXH3-128 over a chunk's bytes in host memory: an order of magnitude faster than any wire here, and
it finds every accident. It is no defence against a peer that forges weights on purpose; the mesh's
key keeps such peers out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash

from netloader.manifest import Chunk
from netloader.weights import Weights, host_buffer

DIGEST_BYTES = 16

_THREADS = 4


def of_bytes(data: torch.Tensor) -> bytes:
    """Digest of a flat uint8 host tensor. Releases the GIL."""
    return xxhash.xxh3_128_digest(host_buffer(data))


def of_chunk(weights: Weights, chunk: Chunk) -> bytes:
    """Digest of one chunk as it would travel, read where its tensors lie."""
    in_place = weights.contiguous(chunk)
    if in_place is not None:
        return of_bytes(in_place)
    digest = xxhash.xxh3_128()
    end = 0
    for piece in chunk.pieces:
        digest.update(bytes(piece.offset - end))
        digest.update(host_buffer(weights.view(piece)))
        end = piece.offset + piece.nbytes
    return digest.digest()


def of_weights(weights: Weights, chunks: Sequence[Chunk]) -> tuple[bytes, ...]:
    """Digests of all chunks, by chunk id. Reads every byte once, on a few threads."""
    threads = min(_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads, thread_name_prefix="netloader-digest") as pool:
        return tuple(pool.map(lambda chunk: of_chunk(weights, chunk), chunks))
