from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader.errors import ManifestError
from netloader.weights.manifest import (
    ALIGN,
    CHUNK_BYTES,
    PACK_BELOW,
    Manifest,
    Tensor,
    decode,
    difference,
)


def tensor(nbytes: int, name: str = "t", **changes: object) -> Tensor:
    made = Tensor(name, "parameter", (nbytes,), (1,), "uint8", nbytes)
    return replace(made, **changes)  # type: ignore[arg-type]


def manifest(*sizes: int, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    tensors = tuple(tensor(size, f"t{number}") for number, size in enumerate(sizes))
    return Manifest("checkpoint", chunk_bytes, tensors)


class TestChunks:
    @given(
        sizes=st.lists(st.integers(0, 5000), max_size=60),
        chunk_bytes=st.integers(1, 6000),
    )
    def test_cover_every_byte_exactly_once(self, sizes: list[int], chunk_bytes: int) -> None:
        made = manifest(*sizes, chunk_bytes=chunk_bytes)
        covered = [[0] * size for size in sizes]
        for chunk in made.chunks():
            for piece in chunk.pieces:
                for at in range(piece.start, piece.start + piece.nbytes):
                    covered[piece.tensor][at] += 1
        assert all(count == 1 for tensor in covered for count in tensor)

    @given(
        sizes=st.lists(
            st.one_of(st.integers(0, 3 * CHUNK_BYTES), st.integers(0, 2 * PACK_BELOW)), max_size=60
        ),
        chunk_bytes=st.one_of(st.just(CHUNK_BYTES), st.integers(1 << 18, 2 * CHUNK_BYTES)),
    )
    def test_respect_the_sizes(self, sizes: list[int], chunk_bytes: int) -> None:
        made = manifest(*sizes, chunk_bytes=chunk_bytes)
        chunks = made.chunks()
        assert [chunk.id for chunk in chunks] == list(range(len(chunks)))
        assert sum(chunk.payload for chunk in chunks) == made.nbytes == sum(sizes)
        for chunk in chunks:
            assert 0 < chunk.nbytes <= chunk_bytes
            assert all(piece.nbytes > 0 for piece in chunk.pieces)
            if not chunk.packed:
                assert len(chunk.pieces) == 1
                assert chunk.nbytes == chunk.payload
            else:
                assert all(piece.start == 0 for piece in chunk.pieces)
                assert all(piece.nbytes < PACK_BELOW for piece in chunk.pieces)

    def test_large_tensor_is_cut(self) -> None:
        chunks = manifest(2 * CHUNK_BYTES + 5).chunks()
        assert [(chunk.nbytes, chunk.packed) for chunk in chunks] == [
            (CHUNK_BYTES, False),
            (CHUNK_BYTES, False),
            (5, False),
        ]

    def test_small_tensors_travel_together_past_a_large_one(self) -> None:
        chunks = manifest(10, PACK_BELOW, 20).chunks()
        assert [(chunk.nbytes, chunk.packed) for chunk in chunks] == [
            (PACK_BELOW, False),
            (ALIGN + 20, True),
        ]

    @given(sizes=st.lists(st.integers(0, 2000), max_size=60), chunk_bytes=st.integers(1, 6000))
    def test_lay_tensors_out_aligned_and_as_close_as_that_allows(
        self, sizes: list[int], chunk_bytes: int
    ) -> None:
        for chunk in manifest(*sizes, chunk_bytes=chunk_bytes).chunks():
            end = 0
            for piece in chunk.pieces:
                assert piece.offset % ALIGN == 0
                assert end <= piece.offset < end + ALIGN
                end = piece.offset + piece.nbytes
            assert chunk.nbytes == end

    def test_gaps_are_what_no_piece_covers(self) -> None:
        (chunk,) = manifest(10, ALIGN, 3).chunks()
        assert list(chunk.gaps()) == [(10, ALIGN)]
        assert (chunk.nbytes, chunk.payload) == (2 * ALIGN + 3, ALIGN + 13)

    def test_a_tensor_that_fits_only_without_its_gap_starts_the_next(self) -> None:
        chunks = manifest(10, 10, chunk_bytes=ALIGN + 9).chunks()
        assert [(chunk.nbytes, chunk.packed) for chunk in chunks] == [(10, True), (10, True)]

    def test_are_computed_once(self) -> None:
        made = manifest(10, 20)
        assert made.chunks() is made.chunks()

    def test_equal_hashes_have_equal_tables(self) -> None:
        assert manifest(10, 20).hash == manifest(10, 20).hash
        assert manifest(10, 20).hash != manifest(10, 20, chunk_bytes=64).hash

    def test_nothing_has_no_chunks(self) -> None:
        assert manifest().chunks() == manifest(0, 0).chunks() == ()


class TestWire:
    def test_manifest_survives_the_wire(self) -> None:
        made = Manifest(
            "runtime",
            64,
            (
                tensor(6, "a", shape=(2, 3), stride=(1, 2), aliases=("b", "c")),
                tensor(0, "d", kind="buffer", shape=(), stride=()),
            ),
        )
        assert decode(made.encode()) == made
        assert decode(made.encode()).hash == made.hash

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_manifest_or_a_manifest_error(self, data: bytes) -> None:
        try:
            decode(data)
        except ManifestError:
            return

    @given(
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=9)),
            lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=20,
        )
    )
    def test_any_rows_are_a_manifest_or_a_manifest_error(self, rows: object) -> None:
        for data in (rows, ["checkpoint", 1, rows], ["checkpoint", 1, [rows]]):
            try:
                decode(orjson.dumps(data))
            except ManifestError:
                continue

    @pytest.mark.parametrize(
        "row",
        [
            [1, "parameter", [1], [1], "uint8", 1, []],
            ["a", "weight", [1], [1], "uint8", 1, []],
            ["a", "parameter", [-1], [1], "uint8", 1, []],
            ["a", "parameter", [True], [1], "uint8", 1, []],
            ["a", "parameter", [1], "1", "uint8", 1, []],
            ["a", "parameter", [1], [1], 8, 1, []],
            ["a", "parameter", [1], [1], "uint8", -1, []],
            ["a", "parameter", [1], [1], "uint8", 1 << 60, []],
            ["a", "parameter", [1], [1], "uint8", 1, [1]],
            ["a", "parameter", [1], [1], "uint8", 1, "alias"],
            ["a", "parameter", [1], [1], "uint8", 1],
        ],
    )
    def test_malformed_row_is_a_manifest_error(self, row: list[object]) -> None:
        with pytest.raises(ManifestError, match="malformed"):
            decode(orjson.dumps(["checkpoint", 1, [row]]))


class TestDifference:
    def test_of_equals_is_none(self) -> None:
        assert difference(manifest(1, 2), manifest(1, 2)) is None

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"name": "u"}, "tensor 0 (t): name: mine 't', theirs 'u'"),
            ({"kind": "buffer"}, "tensor 0 (t): kind: mine 'parameter', theirs 'buffer'"),
            ({"shape": (2, 2)}, "tensor 0 (t): shape: mine (4,), theirs (2, 2)"),
            ({"stride": (2,)}, "tensor 0 (t): stride: mine (1,), theirs (2,)"),
            ({"dtype": "int8"}, "tensor 0 (t): dtype: mine 'uint8', theirs 'int8'"),
            ({"aliases": ("v",)}, "tensor 0 (t): aliases: mine (), theirs ('v',)"),
        ],
    )
    def test_names_the_tensor_and_what_differs(self, change: dict[str, object], words: str) -> None:
        mine = Manifest("checkpoint", 1, (tensor(4),))
        theirs = Manifest("checkpoint", 1, (tensor(4, **change),))  # type: ignore[arg-type]
        assert difference(mine, theirs) == words
        assert mine.hash != theirs.hash

    def test_names_the_first_only(self) -> None:
        assert (difference(manifest(1, 2, 3), manifest(1, 5, 6)) or "").startswith("tensor 1 (t1)")

    def test_of_numbers_layouts_and_chunk_sizes(self) -> None:
        assert difference(manifest(1, 2), manifest(1)) == "tensors: mine 2, theirs 1"
        assert difference(manifest(1), replace(manifest(1), layout="runtime")) == (
            "layout: mine checkpoint, theirs runtime"
        )
        assert difference(manifest(1), manifest(1, chunk_bytes=8)) == (
            f"chunk size: mine {CHUNK_BYTES}, theirs 8"
        )
