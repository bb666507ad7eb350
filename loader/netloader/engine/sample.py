"""Loading a sample of a checkpoint into a model that was filled in another way.

A model's own `load_weights` decides where a tensor of the checkpoint belongs, and which part of it
this rank holds. So a sample goes through it, and whoever holds digests of the model from before
sees whether that changed anything. Three tensors of each kind are read, a kind being a name without
its numbers: other layers and experts than its neighbours', spread over the checkpoint. Of tensors
above `_LARGE`, one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from safetensors import safe_open
from torch import nn

from netloader.checkpoint.wanted import Files
from netloader.errors import IdentityError

_EACH: Final = 3

_LARGE: Final = 256 << 20
"""Bytes."""

_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor in a file."""

    path: str
    name: str
    prefix: str
    nbytes: int


def load_sample(model: nn.Module, files: Files) -> int:
    """Load a sample of `files` into `model`. Returns its size in bytes.

    Raises `IdentityError` when the files are not safetensors, and whatever `load_weights` raises.
    """
    sample = chosen(_listed(files))
    if not sample:
        raise IdentityError("the checkpoint has no tensors")
    load = getattr(model, "load_weights", None)
    if not callable(load):
        raise IdentityError("the model does not load weights by itself")
    load(_read(sample))
    return sum(one.nbytes for one in sample)


def chosen(stored: Iterable[FileTensor]) -> list[FileTensor]:
    """The sample, in the order of the files."""
    kinds: dict[str, list[FileTensor]] = {}
    for one in stored:
        kinds.setdefault(_NUMBER.sub("#", one.prefix + one.name), []).append(one)
    return [one for kind in kinds.values() for one in _spread(kind)]


def _spread(kind: Sequence[FileTensor]) -> list[FileTensor]:
    count = 1 if kind[0].nbytes > _LARGE else min(_EACH, len(kind))
    # In the middle of as many equal parts.
    return [kind[(2 * part + 1) * len(kind) // (2 * count)] for part in range(count)]


def _listed(files: Files) -> Iterator[FileTensor]:
    for file in files.files:
        if file.path.suffix != ".safetensors":
            raise IdentityError(f"{file.path} is not safetensors, so no sample of it can be read")
        with safe_open(file.path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                size = math.prod(part.get_shape()) * _ITEMSIZE.get(part.get_dtype(), 4)
                yield FileTensor(str(file.path), name, file.prefix, size)


_ITEMSIZE: Final = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}
"""Only to tell large tensors."""


def _read(sample: Sequence[FileTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for one in sample:
        with safe_open(one.path, "pt") as opened:
            yield one.prefix + one.name, opened.get_tensor(one.name)
