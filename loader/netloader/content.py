"""Evidence of what a checkpoint on disk holds, without reading all of it.

Two fine-tunes of one model have the same tensor names, shapes and file sizes, so a header alone
proves nothing. In order of cost:

- the Hugging Face cache already names its files by content hash: free;
- `sample`: a few KiB out of *every* tensor, at places derived from the header. Training moves all
  of a tensor, so this tells fine-tunes apart in milliseconds; an edit of a few rows of one large
  matrix it can miss, and who makes such edits asks for `full`;
- `full`: every byte, when the operator asks for it or the format has no tensor table.

The result depends on the files' content and names only, never on where they lie.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import orjson
import xxhash

from netloader.errors import IdentityError
from netloader.identity import Evidence

_INDEX = "model.safetensors.index.json"
_PATTERNS = ("*.safetensors", "*.bin", "*.pt")
"""Weight file patterns in vLLM's order: the first that matches anything is the one it loads."""

_BLOCK = 1024
_BLOCKS_PER_TENSOR = 4
_MAX_HEADER = 100 * 1024 * 1024
"""The safetensors format's own bound on its header."""

_READ = 4 * 1024 * 1024

_Parts = Callable[[Path], Iterator[bytes]]


def local_evidence(model: str, *, full: bool = False) -> dict[Evidence, str]:
    """Evidence for a checkpoint folder; empty when `model` is no folder with weights.

    Raises `IdentityError` when the folder's weight files cannot be read or are malformed.
    """
    folder = Path(model)
    if not folder.is_dir():
        return {}
    try:
        files = weight_files(folder)
        if not files:
            return {}
        found = {}
        blobs = _cache_blobs(files)
        if blobs is not None:
            found[Evidence.BLOBS] = blobs
        commit = cache_commit(folder)
        if commit is not None:
            found[Evidence.COMMIT] = commit
        if all(file.suffix == ".safetensors" for file in files):
            found[Evidence.SAMPLE] = _digest_files(files, _sampled)
        if full or Evidence.SAMPLE not in found:
            found[Evidence.FULL] = _digest_files(files, _entire)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IdentityError(f"the weights in {folder} cannot be read: {error!r}") from error


def commit_evidence(repo: str, commit: str | None) -> dict[Evidence, str]:
    """Evidence for a repository id whose commit is resolved, for one with no file at hand."""
    return {Evidence.COMMIT: f"{repo}@{commit}"} if commit else {}


def weight_files(folder: Path) -> list[Path]:
    """The weight files vLLM would load from a folder, sorted by name.

    Empty when there are none, or when the index names one that is missing: half a download says
    nothing about the whole.
    """
    for pattern in _PATTERNS:
        files = sorted(folder.glob(pattern))
        if files:
            return _indexed(folder, files) if pattern == "*.safetensors" else files
    return []


def _indexed(folder: Path, files: list[Path]) -> list[Path]:
    """Leave out files that the index does not name (a consolidated copy next to the shards)."""
    index = folder / _INDEX
    if not index.is_file():
        return files
    named = set(orjson.loads(index.read_bytes())["weight_map"].values())
    present = [file for file in files if file.name in named]
    return present if len(present) == len(named) else []


def cache_commit(folder: Path) -> str | None:
    """`org/name@commit` when the folder is a snapshot in a Hugging Face cache."""
    # .../models--org--name/snapshots/<commit>
    snapshot = folder.absolute()
    repo = snapshot.parent.parent.name
    if snapshot.parent.name != "snapshots" or not repo.startswith("models--"):
        return None
    return f"{repo.removeprefix('models--').replace('--', '/')}@{snapshot.name}"


def _cache_blobs(files: Iterable[Path]) -> str | None:
    """The cache links each file to a blob whose name is its content hash."""
    digest = xxhash.xxh3_128()
    for file in files:
        if not file.is_symlink():
            return None
        blob = Path(os.path.realpath(file))
        if blob.parent.name != "blobs":
            return None
        digest.update(f"{file.name}\0{blob.name}\0".encode())
    return digest.hexdigest()


def _digest_files(files: Iterable[Path], parts: _Parts) -> str:
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        for part in parts(file):
            digest.update(part)
    return digest.hexdigest()


def _entire(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_READ):
            yield block


def _sampled(file: Path) -> Iterator[bytes]:
    """The header, then blocks of every tensor at places that the header's hash decides."""
    with file.open("rb", buffering=0) as stream:
        prefix = stream.read(8)
        if len(prefix) != 8:
            raise ValueError(f"{file.name} is too short for a safetensors file")
        (length,) = struct.unpack("<Q", prefix)
        if length > _MAX_HEADER:
            raise ValueError(f"{file.name} declares a header of {length} bytes")
        header = stream.read(length)
        if len(header) != length:
            raise ValueError(f"{file.name} ends inside its header")
        yield header
        # Seeded by the header: the same places on every worker, no other meaning.
        places = Random(xxhash.xxh3_64_intdigest(header))
        start = 8 + length
        for begin, end in _spans(file, header):
            for offset in _offsets(places, end - begin):
                block = os.pread(
                    stream.fileno(), min(_BLOCK, end - begin - offset), start + begin + offset
                )
                if not block:
                    raise ValueError(f"{file.name} is shorter than its header says")
                yield block


def _spans(file: Path, header: bytes) -> Iterator[tuple[int, int]]:
    table = orjson.loads(header)
    if not isinstance(table, dict):
        raise ValueError(f"{file.name} has no tensor table")
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if end > begin:
            yield begin, end


def _offsets(places: Random, size: int) -> Iterator[int]:
    """Whole small tensors; of larger ones the first and last block and some in between."""
    if size <= _BLOCK * _BLOCKS_PER_TENSOR:
        yield from range(0, size, _BLOCK)
        return
    yield 0
    for _ in range(_BLOCKS_PER_TENSOR - 2):
        yield places.randrange(size - _BLOCK)
    yield size - _BLOCK
