from __future__ import annotations

import torch
import xxhash
from tests.loader.support import CHUNK, toy_weights

from netloader import digests


def test_digest_is_xxh3_of_the_bytes() -> None:
    assert digests.of_bytes(torch.tensor([1, 2], dtype=torch.uint8)) == xxhash.xxh3_128_digest(
        b"\x01\x02"
    )


def test_chunk_has_the_same_digest_in_place_and_as_it_travels() -> None:
    weights = toy_weights(1)
    staging = torch.empty(CHUNK, dtype=torch.uint8)
    for chunk in weights.manifest.chunks():
        assert digests.of_chunk(weights, chunk) == digests.of_bytes(weights.pack(chunk, staging))


def test_digests_of_all_chunks_are_in_order_of_their_ids() -> None:
    weights = toy_weights(1)
    chunks = weights.manifest.chunks()
    found = digests.of_weights(weights, chunks)
    assert found == tuple(digests.of_chunk(weights, chunk) for chunk in chunks)
    assert {len(digest) for digest in found} == {digests.DIGEST_BYTES}


def test_one_changed_bit_changes_its_chunk_only() -> None:
    weights = toy_weights(1)
    chunks = weights.manifest.chunks()
    before = digests.of_weights(weights, chunks)
    weights.view(chunks[3].pieces[0])[0] ^= 1
    after = digests.of_weights(weights, chunks)
    assert [number for number in range(len(chunks)) if before[number] != after[number]] == [3]


def test_no_chunks_have_no_digests() -> None:
    assert digests.of_weights(toy_weights(), ()) == ()
