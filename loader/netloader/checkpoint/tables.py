"""What a weight file holds, from its own table of contents: nothing is unpickled.

Pure but for `records`, which reads the end of a zip archive.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from math import prod
from typing import BinaryIO, Final

from orjson import dumps, loads

MAX_HEADER: Final = 100 * 1000 * 1000
"""Maximum size of a safetensors header in bytes: the format's own limit."""

LOCAL_HEADER: Final = 30
"""Bytes in a zip record's local header, before the name."""

PICKLE: Final = "data.pkl"
"""The record in torch's archives that lists the tensors."""

_METADATA: Final = "__metadata__"
_LOCAL_MAGIC: Final = b"PK\x03\x04"

_SHOWN: Final = 200
"""Characters that an error quotes at most."""

_BITS: Final = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Size of one element, by safetensors' type names. A type not listed here comes from a later
format: its size is not checked against its shape."""

_NOT_CONTENT: Final = frozenset(
    {".data/serialization_id", ".format_version", ".storage_alignment", "version"}
)
"""Records in torch's archives that say how they were written. None belongs to a tensor."""


@dataclass(slots=True)
class Parts:
    """Tensors, or records of an archive, by their place in a file. Kept as columns: there may be
    100,000, and an object for each would cost more than all other work on them."""

    names: list[str] = field(default_factory=list)
    """With the loader's prefix."""
    about: list[bytes] = field(default_factory=list)
    """All but the bytes, as canonical JSON: name, type, shape and size of a tensor."""
    begins: list[int] = field(default_factory=list)
    """Offsets in the file. For records as `records` returns them: offsets of local headers."""
    sizes: list[int] = field(default_factory=list)
    """In bytes."""

    def rows(self) -> Iterator[tuple[str, bytes, int, int]]:
        return zip(self.names, self.about, self.begins, self.sizes, strict=True)

    def add(self, name: str, about: bytes, begin: int, size: int) -> None:
        self.names.append(name)
        self.about.append(about)
        self.begins.append(begin)
        self.sizes.append(size)


def header_length(start: bytes, size: int) -> int:
    """Bytes of JSON after the first eight bytes of a safetensors file of `size` bytes.

    Raises `ValueError` saying what is wrong.
    """
    if len(start) != 8:
        raise ValueError(f"{size} bytes are too few for a safetensors file")
    length = int(struct.unpack("<Q", start)[0])
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(f"it has {size} bytes and declares a header of {length}")
    return length


def tensors(header: bytes, size: int, prefix: str = "") -> Parts:
    """The tensors of a safetensors file of `size` bytes.

    They fill the file after its header without gap or overlap, as the format demands. Raises
    `ValueError` saying what is wrong.
    """
    table = loads(header)
    if not isinstance(table, dict):
        raise ValueError("its header is no table")
    table.pop(_METADATA, None)
    try:
        rows = [
            (entry["data_offsets"], entry["dtype"], entry["shape"], name)
            for name, entry in table.items()
        ]
        if [row[0][0] for row in rows[1:]] != [row[0][1] for row in rows[:-1]]:
            rows.sort()
        return _placed(rows, 8 + len(header), size, prefix)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"its header has an entry that describes no tensor ({error!r})") from None


def _placed(
    rows: list[tuple[list[int], str, list[int], str]], base: int, size: int, prefix: str
) -> Parts:
    numbers = chain.from_iterable(chain.from_iterable((row[0], row[2]) for row in rows))
    if not set(map(type, numbers)) <= {int}:
        raise ValueError("its header has an offset or a shape that is no whole number")
    checked: dict[tuple[object, ...], bytes] = {}
    kinds = []
    at = 0
    for (begin, end), dtype, shape, name in rows:
        if begin != at or end < begin:
            raise ValueError(
                f"tensor {name[:_SHOWN]!r} lies at bytes {begin} to {end} of the data, the one "
                f"before it ends at {at}"
            )
        at = end
        # Tensors are many, shapes are few.
        kind = (dtype, end - begin, *shape)
        known = checked.get(kind)
        if known is None:
            known = checked[kind] = _checked(name, dtype, shape, end - begin)
        kinds.append(known)
    if base + at != size:
        raise ValueError(f"it has {size} bytes, its tensors end at byte {base + at}")
    names = [prefix + row[3] for row in rows]
    return Parts(
        names=names,
        about=[dumps(name) + kind for name, kind in zip(names, kinds, strict=True)],
        begins=[base + row[0][0] for row in rows],
        sizes=[row[0][1] - row[0][0] for row in rows],
    )


def _checked(name: str, dtype: str, shape: list[int], size: int) -> bytes:
    """Type, shape and size of a tensor as JSON, checked to agree with each other."""
    bits = _BITS.get(dtype)
    wrong = bits is not None and prod(shape) * bits != size * 8
    if type(dtype) is not str or min(shape, default=0) < 0 or wrong:
        raise ValueError(
            f"tensor {name[:_SHOWN]!r} of type {dtype!r:.{_SHOWN}} and shape {shape!r:.{_SHOWN}} "
            f"cannot have {size} bytes"
        )
    return dumps((dtype, shape, size))


def records(file: BinaryIO, size: int, prefix: str = "") -> Parts | None:
    """The records of an archive that `torch.save` wrote, at the places of their local headers.

    None when the file is not such an archive. Names omit the archive's top folder, which is named
    after the file it was saved to. Raises `ValueError` for records outside the file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error):
        return None
    tops = {entry.filename.partition("/")[0] for entry in entries}
    names = {entry.filename.partition("/")[2] for entry in entries}
    plain = all(
        entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries
    )
    if len(tops) != 1 or PICKLE not in names or not plain:
        return None
    parts = Parts()
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename.partition("/")[2]
        if name in _NOT_CONTENT:
            continue
        if entry.header_offset < 0 or entry.header_offset + LOCAL_HEADER + entry.file_size > size:
            raise ValueError(f"record {name[:_SHOWN]!r} lies outside its {size} bytes")
        about = dumps((prefix, name, entry.file_size, entry.CRC))
        parts.add(name, about, entry.header_offset, entry.file_size)
    return parts


def at_their_bytes(parts: Parts, local: Sequence[bytes], size: int) -> Parts:
    """The records that `records` found, moved to the offsets of their own bytes.

    local: the first `LOCAL_HEADER` bytes of each. Raises `ValueError` when these are not headers,
    or lead outside a file of `size` bytes or into another record.
    """
    begins = []
    at = 0
    for name, offset, header, length in zip(
        parts.names, parts.begins, local, parts.sizes, strict=True
    ):
        if header[:4] != _LOCAL_MAGIC:
            raise ValueError(f"record {name[:_SHOWN]!r} has no header at byte {offset}")
        name_length, extra = struct.unpack("<HH", header[26:30])
        begin = offset + LOCAL_HEADER + name_length + extra
        if offset < at or begin + length > size:
            raise ValueError(f"record {name[:_SHOWN]!r} lies in another or outside {size} bytes")
        at = begin + length
        begins.append(begin)
    return replace(parts, begins=begins)
