"""Weight files written by hand, without torch and safetensors."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netloader.checkpoint.evidence import WeightFile

Tensors = Mapping[str, bytes]


@dataclass(frozen=True)
class Tensor:
    """What a safetensors file says of one."""

    data: bytes
    dtype: str = "U8"
    shape: tuple[int, ...] = ()
    """Empty: one dimension."""

    @property
    def dimensions(self) -> list[int]:
        return list(self.shape) or [len(self.data)]


@dataclass(frozen=True)
class Shard:
    """One safetensors file."""

    tensors: Mapping[str, Tensor]
    """In the order in which their bytes lie in the file."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    padding: int = 0
    """Spaces behind the header."""

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        table: dict[str, object] = {"__metadata__": dict(self.metadata)} if self.metadata else {}
        at = 0
        for name, tensor in self.tensors.items():
            table[name] = {
                "dtype": tensor.dtype,
                "shape": tensor.dimensions,
                "data_offsets": [at, at + len(tensor.data)],
            }
            at += len(tensor.data)
        text = json.dumps(table).encode() + b" " * self.padding
        data = b"".join(tensor.data for tensor in self.tensors.values())
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path


def write(path: Path, tensors: Tensors, **metadata: str) -> Path:
    return Shard({name: Tensor(data) for name, data in tensors.items()}, metadata).write(path)


def sparse(path: Path, names: Sequence[str], size: int) -> Path:
    """A safetensors file of tensors of `size` zeroes each that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        name: {"dtype": "U8", "shape": [size], "data_offsets": [at * size, (at + 1) * size]}
        for at, name in enumerate(names)
    }
    text = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size * len(names))
    return path


def of(paths: Iterable[Path], prefix: str = "") -> list[WeightFile]:
    return [WeightFile(path, prefix) for path in paths]


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def snapshot(
    root: Path, files: Mapping[str, Path], *, blob: str | None = None, commit: str = "c0ffee"
) -> list[WeightFile]:
    """Lay files out as the Hugging Face cache does, in the order given.

    blob: the name of the only blob; otherwise each is named by its SHA-256.
    """
    repo = root / "models--org--name"
    (repo / "blobs").mkdir(parents=True, exist_ok=True)
    found = []
    for name, path in files.items():
        target = repo / "blobs" / (blob or hashlib.sha256(path.read_bytes()).hexdigest())
        if not target.exists():
            target.hardlink_to(path)
        link = repo / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        found.append(WeightFile(link))
    return found
