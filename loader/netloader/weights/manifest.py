"""Which bytes, in which order, cut into which chunks.

A source and a replica that build the same model with the same vLLM hold the same tensors. The
manifest records these as an ordered list. Both sides derive the same table of chunks from the list
by the same rule, so a request needs only a chunk's number.

The rule: a tensor of at least `chunk_bytes` is cut into pieces of that size. Smaller ones of at
least `PACK_BELOW` stand alone. The rest are packed in manifest order up to `chunk_bytes`, each
starting at a multiple of `ALIGN`; tiny tensors, other parameters and other buffers are packed
separately. Pieces that stand alone travel straight from and into the tensor's own memory. Packed
ones do too, if a model's tensors are laid out in memory as in the chunk (`coalesce.py`).

Pure: knows neither torch nor vLLM. `capture.py` makes manifests from models.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

import orjson
import xxhash

from netloader.errors import ManifestError

Kind = Literal["parameter", "buffer", "attribute"]
"""`attribute`: a tensor that an object of the model holds otherwise. Only the `runtime` layout has
those."""

CHUNK_BYTES = 32 * 1024 * 1024
"""Default size of a chunk: large enough that a message's fixed cost (0.2 ms on Gloo) vanishes,
small enough that a dead source leaves little unfinished."""

PACK_BELOW = 16 * 1024 * 1024
"""Tensors below this are packed: large messages keep a link full. Packing is free if the tensors
lie as they travel, and costs a copy otherwise."""

TINY_BELOW = 64 * 1024
"""Tensors below this are packed only with others as tiny. Norms and scales live as long as the
model, while linear weights are often replaced after loading. A chunk with both would keep all its
memory for the sake of a few bytes."""

ALIGN = 256
"""Tensors in a packed chunk start at multiples of this many bytes. Accelerator allocators align to
this, so kernels may use tensors in place. The gaps travel as zeros."""

MAX_TENSORS = 1_000_000
MAX_BYTES = 1 << 46


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as both sides must have it. Aliases are names of the very same object.

    In the `runtime` layout it is one run of memory, which tensors of the model share: the first of
    them stands here, and `aliases` spell the others with their places (`processed.py`).
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements, as in torch."""
    dtype: str
    """As torch prints it, without `torch.`."""
    nbytes: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of one tensor, inside one chunk."""

    tensor: int
    """Position in `Manifest.tensors`."""
    start: int
    """First byte, counted from the start of the tensor."""
    nbytes: int
    offset: int = 0
    """First byte, counted from the start of the chunk."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The unit that is requested, sent, verified and retried."""

    id: int
    pieces: tuple[Piece, ...]
    """In order of their offsets, the first at 0."""
    nbytes: int
    """Bytes that travel, from the first byte of the first piece to the last byte of the last piece,
    gaps included."""
    packed: bool
    """Whether it may hold several pieces. If not, its one piece travels without packing."""

    @property
    def payload(self) -> int:
        """Bytes of tensors in the chunk: `nbytes` without the gaps."""
        return sum(piece.nbytes for piece in self.pieces)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Runs of bytes that belong to no tensor, as (first, end), counted in the chunk."""
        end = 0
        for piece in self.pieces:
            if piece.offset > end:
                yield end, piece.offset
            end = piece.offset + piece.nbytes


@dataclass(frozen=True)
class Manifest:
    """What a model's weights consist of. Hash and chunk table are computed once."""

    layout: Literal["checkpoint", "runtime"]
    chunk_bytes: int
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, aliases counted once: the sum of the chunks' payloads."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @cached_property
    def hash(self) -> str:
        """32 hex digits over everything: equal hashes mean equal chunk tables."""
        return xxhash.xxh3_128_hexdigest(self.encode())

    def encode(self) -> bytes:
        """Canonical bytes; `decode` reads them."""
        rows = [
            [t.name, t.kind, t.shape, t.stride, t.dtype, t.nbytes, t.aliases] for t in self.tensors
        ]
        return orjson.dumps([self.layout, self.chunk_bytes, rows])

    def chunks(self) -> tuple[Chunk, ...]:
        """The chunk table, in order of id."""
        return self._chunks

    @cached_property
    def _chunks(self) -> tuple[Chunk, ...]:
        return tuple(_cut(self.tensors, self.chunk_bytes))


def decode(data: bytes) -> Manifest:
    """Read what `Manifest.encode` wrote, from a peer that is not trusted.

    Raises `ManifestError`. The result is only compared with this worker's own manifest, so it never
    decides how much memory is taken.
    """
    try:
        layout, chunk_bytes, rows = orjson.loads(data)
        if layout not in ("checkpoint", "runtime") or not isinstance(chunk_bytes, int):
            raise ValueError("bad head")
        if len(rows) > MAX_TENSORS:
            raise ValueError(f"{len(rows)} tensors")
        return Manifest(layout, chunk_bytes, tuple(_row(*row) for row in rows))
    except (ValueError, TypeError) as error:
        raise ManifestError(f"the peer's manifest is malformed: {error}") from None


def difference(mine: Manifest, theirs: Manifest) -> str | None:
    """The first difference between two manifests, in words; None when they are equal.

    The text may be as long as any value in the other side's manifest.
    """
    if mine.layout != theirs.layout:
        return f"layout: mine {mine.layout}, theirs {theirs.layout}"
    if mine.chunk_bytes != theirs.chunk_bytes:
        return f"chunk size: mine {mine.chunk_bytes}, theirs {theirs.chunk_bytes}"
    for number, (ours, other) in enumerate(zip(mine.tensors, theirs.tensors, strict=False)):
        for part in fields(Tensor):
            here, there = getattr(ours, part.name), getattr(other, part.name)
            if here != there:
                what = f"tensor {number} ({ours.name}): {part.name}"
                return f"{what}: mine {here!r}, theirs {there!r}"
    if len(mine.tensors) != len(theirs.tensors):
        return f"tensors: mine {len(mine.tensors)}, theirs {len(theirs.tensors)}"
    return None


def _row(
    name: object,
    kind: object,
    shape: object,
    stride: object,
    dtype: object,
    nbytes: object,
    aliases: object,
) -> Tensor:
    if (
        not isinstance(name, str)
        or not isinstance(dtype, str)
        or not isinstance(nbytes, int)
        or not 0 <= nbytes <= MAX_BYTES
    ):
        raise ValueError(f"bad tensor {name!r:.200}")
    if kind != "parameter" and kind != "buffer" and kind != "attribute":
        raise ValueError(f"bad kind of {name!r:.200}: {kind!r:.200}")
    names = tuple(aliases) if isinstance(aliases, list) else (None,)
    if not all(isinstance(alias, str) for alias in names):
        raise ValueError(f"bad aliases of {name!r:.200}")
    return Tensor(name, kind, _dims(shape), _dims(stride), dtype, nbytes, names)


def _dims(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(dim) is int and dim >= 0 for dim in value):
        raise ValueError(f"bad dimensions {value!r:.200}")
    return tuple(value)


def _cut(tensors: Sequence[Tensor], chunk_bytes: int) -> Iterator[Chunk]:
    numbers = itertools.count()
    packs: dict[str, _Pack] = {}
    # No pack may exceed `chunk_bytes`, however small: staging buffers have that size.
    stands_alone = min(PACK_BELOW, chunk_bytes)
    for position, tensor in enumerate(tensors):
        if tensor.nbytes == 0:
            continue
        if tensor.nbytes >= stands_alone:
            for start in range(0, tensor.nbytes, chunk_bytes):
                size = min(chunk_bytes, tensor.nbytes - start)
                yield Chunk(next(numbers), (Piece(position, start, size),), size, False)
            continue
        # A buffer shared between layers, as many are, keeps its whole chunk from being moved.
        kind = "tiny" if tensor.nbytes < TINY_BELOW else tensor.kind
        pack = packs.setdefault(kind, _Pack())
        if pack.offset + tensor.nbytes > chunk_bytes:
            yield pack.close(next(numbers))
            pack = packs[kind] = _Pack()
        pack.add(position, tensor.nbytes)
    for pack in packs.values():
        yield pack.close(next(numbers))


@dataclass
class _Pack:
    """A packed chunk that is still being put together."""

    pieces: list[Piece] = field(default_factory=list)
    nbytes: int = 0

    @property
    def offset(self) -> int:
        """Where the next tensor starts."""
        return -(-self.nbytes // ALIGN) * ALIGN

    def add(self, tensor: int, nbytes: int) -> None:
        self.pieces.append(Piece(tensor, 0, nbytes, self.offset))
        self.nbytes = self.pieces[-1].offset + nbytes

    def close(self, number: int) -> Chunk:
        return Chunk(number, tuple(self.pieces), self.nbytes, True)
