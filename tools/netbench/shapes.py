"""The lists of tensors to transfer, made up or read from a file.

A row list has one tensor a line: name, dtype and shape, separated by blanks. The shape's dimensions
are joined with `x`; a scalar's shape is `-`. Empty lines and text after a `#` are ignored.

    # two layers of something
    model.embed_tokens.weight      bfloat16  32000x4096
    model.layers.0.mlp.scale       float32   -
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

LLAMA_BYTES = 1 << 30
"""Default size of `llama`."""

MOE_BYTES = 1_000_000_000
"""Default size of `moe`: 5,000 tensors."""

_LLAMA_LAYERS = 28
_MOE_SHAPE = (125, 800)
_MOE_TENSOR_BYTES = 200_000

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}

_MAX_BYTES = 1 << 44
"""Limit for one list. A typing error must not become a request for all memory."""


class ShapeError(Exception):
    """A list of tensors that cannot be used."""


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def rows_of(shape: str, nbytes: int | None) -> tuple[TensorRow, ...]:
    """The tensors of `llama`, of `moe`, or of the row list in a file.

    `nbytes` scales the first two, roughly; it does not apply to a file. Raises `ShapeError`.
    """
    if nbytes is not None and nbytes <= 0:
        raise ShapeError(f"--bytes {nbytes}: must be above 0")
    if shape == "llama":
        return llama(nbytes or LLAMA_BYTES)
    if shape == "moe":
        return moe(nbytes or MOE_BYTES)
    if nbytes is not None:
        raise ShapeError("--bytes only scales llama and moe: a row list has its own sizes")
    path = Path(shape)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ShapeError(
            f"--shape {shape!r} is neither llama nor moe nor a readable row list: {error}"
        ) from None
    return parse(text.splitlines(), shape)


def llama(nbytes: int) -> tuple[TensorRow, ...]:
    """171 bfloat16 tensors as vLLM holds a Llama of 28 layers, about `nbytes` together.

    At 1 GiB the largest tensor has 54 MB; with half a gigabyte more it would have 80.
    """
    # A layer of hidden size h has 13 h^2 parameters: qkv 1.5, o 1, gate and up 7, down 3.5.
    hidden = max(32, int(math.sqrt(0.9 * nbytes / 2 / _LLAMA_LAYERS / 13)) // 32 * 32)
    inner = hidden * 7 // 2
    rows: list[tuple[str, tuple[int, ...]]] = []
    for number in range(_LLAMA_LAYERS):
        layer = f"model.layers.{number}"
        rows += [
            (f"{layer}.self_attn.qkv_proj.weight", (hidden * 3 // 2, hidden)),
            (f"{layer}.self_attn.o_proj.weight", (hidden, hidden)),
            (f"{layer}.mlp.gate_up_proj.weight", (2 * inner, hidden)),
            (f"{layer}.mlp.down_proj.weight", (hidden, inner)),
            (f"{layer}.input_layernorm.weight", (hidden,)),
            (f"{layer}.post_attention_layernorm.weight", (hidden,)),
        ]
    layers = 2 * sum(math.prod(shape) for _, shape in rows)
    vocabulary = max(1, (nbytes - layers) // (4 * hidden))
    rows.insert(0, ("model.embed_tokens.weight", (vocabulary, hidden)))
    rows.append(("model.norm.weight", (hidden,)))
    rows.append(("lm_head.weight", (vocabulary, hidden)))
    return tuple(TensorRow(name, torch.bfloat16, shape) for name, shape in rows)


def moe(nbytes: int) -> tuple[TensorRow, ...]:
    """Experts of 200 KB, as many as fit into `nbytes`."""
    count = max(1, nbytes // _MOE_TENSOR_BYTES)
    return tuple(
        TensorRow(
            f"model.layers.{number // 100}.mlp.experts.{number % 100}.weight",
            torch.bfloat16,
            _MOE_SHAPE,
        )
        for number in range(count)
    )


def parse(lines: Iterable[str], where: str) -> tuple[TensorRow, ...]:
    """Read a row list. Raises `ShapeError` naming the line, as `where:number`."""
    rows: dict[str, TensorRow] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split("#", 1)[0].split()
        if not parts:
            continue
        place = f"{where}:{number}"
        if len(parts) != 3:
            raise ShapeError(f"{place}: {line.strip()!r} is not `name dtype shape`")
        name, dtype, shape = parts
        if dtype not in _DTYPES:
            raise ShapeError(f"{place}: no dtype {dtype!r}; known are {', '.join(_DTYPES)}")
        if name in rows or any(not part for part in name.split(".")):
            raise ShapeError(f"{place}: {name!r} is there already, or no name of a parameter")
        rows[name] = TensorRow(name, _DTYPES[dtype], _dimensions(shape, place))
    if not rows:
        raise ShapeError(f"{where} has no tensors")
    clash = next((name for name in rows for other in _above(name) if other in rows), None)
    if clash is not None:
        raise ShapeError(f"{where}: {clash!r} lies inside another tensor's name")
    if not 0 < sum(row.nbytes for row in rows.values()) <= _MAX_BYTES:
        raise ShapeError(f"{where}: the tensors have no bytes, or more than {_MAX_BYTES}")
    return tuple(rows.values())


def _dimensions(text: str, place: str) -> tuple[int, ...]:
    if text == "-":
        return ()
    parts = text.split("x")
    if not all(part.isascii() and part.isdigit() and len(part) <= 12 for part in parts):
        raise ShapeError(f"{place}: shape {text!r} is not like 4096x1024, or - for a scalar")
    return tuple(int(part) for part in parts)


def _above(name: str) -> list[str]:
    """The modules that contain a parameter of this name."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
