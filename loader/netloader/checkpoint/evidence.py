"""Evidence of what a checkpoint's files hold, cheapest first.

Content is tensors, not files. `sample` and `full` cover names, types, shapes and bytes of tensors.
File names, the split of tensors into files, metadata and the order within a file do not count. The
caller passes the files that count, in the order in which they are loaded.

- `blobs`: the Hugging Face cache names files by a hash of their content. A name is only a claim:
  equal names with different sizes, or different bytes at a few places, give different evidence.
  `wrong_blob` reads everything. Costs the header and 16 blocks of each file.
- `sample`: a few KiB of *every* tensor, at places that follow from its name, type and shape. Two
  fine-tunes of one model have the same headers and sizes, but training changes all of a tensor. A
  sample can miss an edit to a few rows of one large matrix; operators who make such edits ask for
  `full`. Costs one or several reads per tensor, many at once.
- `full`: every byte.

Files in torch's own format (`.bin`, `.pt`) are archives with one record per tensor storage. Nothing
is unpickled: the archive's table names the records, and each is sampled like a tensor, beside the
pickle that describes them. Equal tensors in a `.bin` and in a `.safetensors` are not equal
evidence. This module reads no table from other formats (a legacy pickle, GGUF): `sample` reads such
a file whole, which costs as much as loading it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final, Literal

import orjson
import xxhash

from netloader.checkpoint import tables
from netloader.checkpoint.blocks import (
    DIGEST_BYTES,
    Choice,
    Places,
    Reading,
    blocks_each,
    entire,
    read_blocks,
    sampled,
)
from netloader.checkpoint.files import (
    Files,
    Stamp,
    WeightFile,
    changed_since,
    opened,
    reported,
    stamps,
)
from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.tables import LOCAL_HEADER, PICKLE, Parts
from netloader.errors import IdentityError
from netloader.identity.identity import Evidence

__all__ = [
    "Files",
    "Reading",
    "Stamp",
    "WeightFile",
    "blobs",
    "cache_commit",
    "changed_since",
    "full",
    "local_evidence",
    "sample",
    "stamps",
    "wrong_blob",
]

_VERSION: Final = 1
"""Version of everything below that decides which bytes are digested, and how."""

_PATTERNS: Final = ("*.safetensors", "*.bin", "*.pt")

_BLOB_BLOCKS: Final = 16
_HASH_BYTES: Final = 4 * 1024 * 1024
_SLOWEST_BYTES_PER_S: Final = 100e6
"""A process that waits for another to read files allows it one second per this many bytes."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")

_DEFAULT: Final = Reading()


def sample(files: Files, cache: HostCache | None = None, *, reading: Reading = _DEFAULT) -> str:
    """Digest over every tensor's name, type, shape and some of its bytes; 32 hex digits.

    Raises `IdentityError`, naming the file, when a file is malformed, cannot be read or changes.
    """
    return _evidence("sample", sampled, files, cache, reading)


def full(files: Files, cache: HostCache | None = None, *, reading: Reading = _DEFAULT) -> str:
    """Like `sample`, over all bytes of every tensor."""
    return _evidence("full", entire, files, cache, reading)


def blobs(files: Files, *, reading: Reading = _DEFAULT) -> str | None:
    """Digest over the hashes by which the Hub's cache names these files; 32 hex digits.

    None unless the cache names every file. Raises `IdentityError` when a file is not as long as its
    header says: half a download, or something else under a blob's name.
    """
    seen = stamps(files)
    names = [_blob_name(stamp) for stamp in seen]
    if not files or not all(names):
        return None
    found = _look_at(files, seen, reading)
    claims, places = [], []
    for name, file, stamp, table in zip(names, files, seen, found, strict=True):
        claim = orjson.dumps((file.prefix, file.path.suffix, name, stamp.size, table.header))
        mine = Places()
        mine.add(table.data, sampled(claim, stamp.size - table.data, _BLOB_BLOCKS))
        claims.append(claim)
        places.append((stamp, mine))
    taken = read_blocks(places, reading)
    entries = [claim + block for claim, block in zip(claims, taken, strict=True)]
    if _told_apart(found):
        # The order follows from file names; where no tensor occurs twice, it changes nothing.
        entries.sort()
    return _digest([b"blobs", *entries])


def wrong_blob(
    files: Files,
    cache: HostCache | None = None,
    *,
    on_read: Callable[[int], object] = lambda _: None,
) -> str | None:
    """Words for the first file whose bytes do not match the hash the Hub's cache names it by.

    None when all match. Reads every byte, one file after the other. Calls `on_read` with the number
    of bytes read, after at most 4 MiB. The number is 0 while another process on this host reads the
    same file. An exception from `on_read` ends the check. Raises `IdentityError` for an unreadable
    file.
    """
    for stamp in stamps(files):
        name = _blob_name(stamp)
        if name is None:
            return f"{stamp.path} is no blob of the Hub's cache that is named by a hash"
        kind: Literal["sha256", "git"] = "sha256" if len(name) == 64 else "git"
        compute = partial(_hash, kind, stamp, on_read)
        have = _remembered(cache, kind, (), [stamp], compute, partial(on_read, 0))
        if have != name:
            return f"{stamp.path} is the blob {name}, its bytes have the hash {have}"
    return None


def cache_commit(folder: Path) -> str | None:
    """`org/name@commit` when the folder is a snapshot in a Hugging Face cache."""
    # .../models--org--name/snapshots/<commit>
    snapshot = folder.absolute()
    repo = snapshot.parent.parent.name
    if snapshot.parent.name != "snapshots" or not repo.startswith("models--"):
        return None
    return f"{repo.removeprefix('models--').replace('--', '/')}@{snapshot.name}"


def local_evidence(model: str, *, full: bool = False) -> dict[Evidence, str]:
    """Evidence for a folder of weights, without vLLM: for tools, tests and a quick look.

    Takes all weight files of the first format found; vLLM may choose others. Empty when `model` is
    not a folder with weights. Gives no sample when the Hub's cache names the files. Raises
    `IdentityError` when files are malformed or cannot be read.
    """
    folder = Path(model)
    listed = (sorted(folder.glob(pattern)) for pattern in _PATTERNS)
    files = [WeightFile(path) for path in next(filter(None, listed), ())]
    if not files:
        return {}
    found = {}
    named, commit = blobs(files), cache_commit(folder)
    if named is not None:
        found[Evidence.BLOBS] = named
    else:
        found[Evidence.SAMPLE] = sample(files)
    if full:
        found[Evidence.FULL] = _evidence("full", entire, files, None, _DEFAULT)
    if commit is not None:
        found[Evidence.COMMIT] = commit
    return found


@dataclass(frozen=True, slots=True)
class _FileTable:
    """What one file holds."""

    kind: Literal["tensors", "records", "bytes"]
    parts: Parts
    header: str = ""
    """Digest of a safetensors header."""
    data: int = 0
    """Offset of the bytes after the header."""


def _evidence(
    kind: str, choice: Choice, files: Files, cache: HostCache | None, reading: Reading
) -> str:
    if not files:
        raise IdentityError("no weight files: nothing can be said of their content")
    seen = stamps(files)

    def compute() -> str:
        found = _content(kind, choice, files, seen, reading)
        changed = changed_since(seen)
        if changed is not None:
            raise IdentityError(f"{changed} while its content was read")
        return found

    how = [(file.prefix, file.path.suffix) for file in files]
    return _remembered(cache, kind, how, seen, compute)


def _remembered(
    cache: HostCache | None,
    kind: str,
    how: Sequence[object],
    seen: Sequence[Stamp],
    compute: Callable[[], str],
    waiting: Callable[[], object] = lambda: None,
) -> str:
    """One cache entry for all files: a checkpoint may have 100,000 tensors, and a digest for each
    would take megabytes."""
    if cache is None:
        return compute()
    facts = [
        (stamp.real, stamp.size, stamp.mtime_ns, stamp.ctime_ns, stamp.inode, stamp.device)
        for stamp in seen
    ]
    key = hashlib.blake2b(orjson.dumps((_VERSION, kind, how, facts)), digest_size=32).hexdigest()
    read = sum(stamp.size for stamp in seen) if kind != "sample" else 0
    return cache.remembered(
        key,
        compute,
        newest_ns=max(max(stamp.mtime_ns, stamp.ctime_ns) for stamp in seen),
        patience_s=read / _SLOWEST_BYTES_PER_S,
        waiting=waiting,
    )


def _content(
    kind: str, choice: Choice, files: Files, seen: Sequence[Stamp], reading: Reading
) -> str:
    """Digest over tables and bytes of all files.

    Neighbouring files of tensors count as one, so the split into files does not matter. Tensors are
    sorted by name; tensors with equal names stay in reading order.
    """
    found = _records_found(_look_at(files, seen, reading), seen, reading)
    total = sum(len(table.parts.names) for table in found)
    each = blocks_each(total)
    places, ends = [], []
    for table, stamp in zip(found, seen, strict=True):
        mine, behind = Places(), [0]
        # A file without a table is read whole, and so is the pickle that describes the records.
        of = entire if table.kind == "bytes" else choice
        pickle = PICKLE if table.kind == "records" else None
        for name, about, begin, size in table.parts.rows():
            chosen = (entire if name == pickle else of)(about, size, each)
            behind.append(mine.add(begin, chosen))
        places.append((stamp, mine))
        ends.append(behind)
    taken = read_blocks(places, reading)
    digested = [kind.encode(), b"%d" % total]
    # Neighbouring files that hold only tensors form one group.
    numbered = [
        (table.kind, at if table.kind != "tensors" else -1) for at, table in enumerate(found)
    ]
    for (group, _), members in groupby(range(len(found)), numbered.__getitem__):
        names: list[str] = []
        entries: list[bytes] = []
        for at in members:
            names += found[at].parts.names
            blocks = bytes(taken[at])
            entries += [
                about + blocks[begin * DIGEST_BYTES : end * DIGEST_BYTES]
                for about, (begin, end) in zip(
                    found[at].parts.about, pairwise(ends[at]), strict=True
                )
            ]
        digested.append(b"%s %d" % (group.encode(), len(names)))
        digested += [entries[at] for at in sorted(range(len(names)), key=names.__getitem__)]
    return _digest(digested)


def _digest(entries: Sequence[bytes]) -> str:
    # With the lengths, no two sequences give the same bytes.
    lengths = array("Q", map(len, entries))
    if sys.byteorder == "big":
        lengths.byteswap()
    start = b"netloader content %d %d\0" % (_VERSION, len(entries))
    return xxhash.xxh3_128_hexdigest(b"".join((start, lengths.tobytes(), *entries)))


def _look_at(files: Files, seen: Sequence[Stamp], reading: Reading) -> list[_FileTable]:
    """The tables of all files. Raises `IdentityError` when one is malformed."""

    def start(pair: tuple[WeightFile, Stamp]) -> bytes | Parts | None:
        file, stamp = pair
        with opened(stamp) as descriptor:
            if file.path.suffix == ".safetensors":
                first = reading.exactly(descriptor, stamp, min(8, stamp.size), 0)
                with _named(stamp):
                    length = tables.header_length(first, stamp.size)
                return reading.exactly(descriptor, stamp, length, 8)
            with reported(stamp), _named(stamp), os.fdopen(os.dup(descriptor), "rb") as stream:
                return tables.records(stream, stamp.size, file.prefix)

    pairs = list(zip(files, seen, strict=True))
    # Only the waiting runs in parallel: parsing threads would compete for the interpreter.
    return [
        _table(file, stamp, read)
        for (file, stamp), read in zip(pairs, reading.over(start, pairs, small=True), strict=True)
    ]


def _table(file: WeightFile, seen: Stamp, read: bytes | Parts | None) -> _FileTable:
    if isinstance(read, bytes):
        with _named(seen):
            parts = tables.tensors(read, seen.size, file.prefix)
        return _FileTable("tensors", parts, xxhash.xxh3_128_hexdigest(read), 8 + len(read))
    if read is not None:
        return _FileTable("records", read)
    parts = Parts()
    parts.add("", orjson.dumps((file.prefix, seen.size)), 0, seen.size)
    return _FileTable("bytes", parts)


@contextmanager
def _named(seen: Stamp) -> Iterator[None]:
    """Name the file in errors raised inside."""
    try:
        yield
    except ValueError as error:
        raise IdentityError(f"the weight file {seen.path} is malformed: {error}") from error


def _records_found(
    found: Sequence[_FileTable], seen: Sequence[Stamp], reading: Reading
) -> list[_FileTable]:
    """Read where the bytes of archives' records begin: only their local headers say so."""
    which = [index for index, table in enumerate(found) if table.kind == "records"]
    asked = []
    for index in which:
        mine = Places()
        for begin in found[index].parts.begins:
            mine.add(begin, [(0, LOCAL_HEADER)])
        asked.append((seen[index], mine))
    taken = read_blocks(asked, reading, bytes, LOCAL_HEADER)
    placed = list(found)
    for index, read in zip(which, taken, strict=True):
        local = [bytes(read[at : at + LOCAL_HEADER]) for at in range(0, len(read), LOCAL_HEADER)]
        with _named(seen[index]):
            parts = tables.at_their_bytes(found[index].parts, local, seen[index].size)
        placed[index] = replace(found[index], parts=parts)
    return placed


def _told_apart(found: Sequence[_FileTable]) -> bool:
    """True when no tensor occurs twice, as far as the tables show."""
    names = [name for table in found for name in table.parts.names]
    tensors = all(table.kind == "tensors" for table in found)
    return tensors and len(set(names)) == len(names)


def _blob_name(stamp: Stamp) -> str | None:
    folder, name = os.path.split(stamp.real)
    hashed = _SHA256.fullmatch(name) or _GIT_SHA1.fullmatch(name)
    return name if hashed and os.path.basename(folder) == "blobs" else None  # noqa: PTH119


def _hash(kind: Literal["sha256", "git"], seen: Stamp, on_read: Callable[[int], object]) -> str:
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    if kind == "git":
        digest.update(b"blob %d\0" % seen.size)
    with opened(seen) as file:
        for at in range(0, seen.size, _HASH_BYTES):
            data = _DEFAULT.exactly(file, seen, min(_HASH_BYTES, seen.size - at), at)
            digest.update(data)
            on_read(len(data))
    changed = changed_since([seen])
    if changed is not None:
        raise IdentityError(f"{changed} while its content was read")
    return digest.hexdigest()
