"""The tensors of a model as post-processing left them: the `runtime` layout.

Post-processing replaces tensors, adds some (in attributes, under kernels' objects, in containers)
and lets some share memory. So this layout lists runs of memory instead of tensors. Tensors that
overlap are one run, named by the first of them; the manifest spells the others, and what lies
where. Bytes travel as they lie, in a device's own formats too: only workers with equal chips,
versions and kernels share them.

Some tensors mean something in one process only, because they hold addresses. `take` looks for
integers that are addresses here, and refuses the model if it finds any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from netloader.errors import ManifestError
from netloader.model import numbers, spelling
from netloader.model.fingerprint import Reached, ReachedTensor, reach
from netloader.weights.capture import Weights
from netloader.weights.coalesce import zero_gaps
from netloader.weights.formats import blocked_format, raw_bytes
from netloader.weights.manifest import PACK_BELOW, Manifest, Tensor

_COPY_BELOW: Final = 64 * 1024
"""Attributes below this many bytes are copied before they are served. Models write to small ones
(counters, scales of a KV cache) while they run."""

_BLOCKED_BYTES: Final = 2
"""Bytes of the widest element taken in a device's own format. Wider ones are integers that vLLM
Ascend packs into the memory of others (W4A8): torch_npu reads other values from equal bytes."""

_ADDRESSES: Final = frozenset({torch.int64, torch.uint64})
_MAX_ADDRESSES: Final = 1 << 20
"""Elements of a tensor that are looked at. A table of addresses has one for each expert."""


@dataclass(frozen=True)
class Processed:
    """A post-processed model, as workers of the same kind share it."""

    weights: Weights
    state: Mapping[str, str]
    """Digests of the state besides tensors, by module: equal where all of it is equal."""
    floats: Mapping[str, float]
    """Numbers that hang off modules and their objects, by path of attributes."""

    def to_serve(self) -> Processed:
        """The same with copies of what a model writes to while it runs."""
        tensors = tuple(
            data.clone() if _changes(tensor) else data
            for tensor, data in zip(
                self.weights.manifest.tensors, self.weights.tensors, strict=True
            )
        )
        return replace(self, weights=replace(self.weights, tensors=tensors))


def take(model: nn.Module, chunk_bytes: int) -> Processed:
    """Describe and reference everything that `model` holds after post-processing.

    Raises `ManifestError` naming the first thing that other workers cannot have.
    """
    with torch._C.DisableTorchFunction():
        reached = reach(model)
        spelled = _spelled(reached)
        weights = _weights(reached.tensors, chunk_bytes)
        zero_gaps(weights)
        return Processed(weights, spelled.digests(), numbers.numbers(reached.state))


def state(model: nn.Module) -> dict[str, str]:
    """`Processed.state` of the model as it is now. Raises `ManifestError`."""
    with torch._C.DisableTorchFunction():
        return _spelled(reach(model)).digests()


def numbers_of(model: nn.Module) -> dict[str, float]:
    """`Processed.floats` of the model as it is now."""
    with torch._C.DisableTorchFunction():
        return numbers.numbers(reach(model).state)


def _spelled(reached: Reached) -> spelling.Spelling:
    if reached.state.unseen:
        raise ManifestError(f"cannot look into all that it holds: {reached.state.unseen}")
    spelled = spelling.spell(reached.state)
    if spelled.opaque:
        raise ManifestError(f"post-processing left {spelled.opaque}")
    return spelled


def _changes(tensor: Tensor) -> bool:
    return tensor.kind == "buffer" or (tensor.kind == "attribute" and tensor.nbytes < _COPY_BELOW)


@dataclass(frozen=True)
class _Span:
    """The memory of one tensor."""

    reached: ReachedTensor
    number: int
    """In the order in which tensors were reached."""
    device: torch.device
    start: int
    """Address of the first byte."""
    end: int
    format: str
    """Of the device's own; empty for plain order."""


def _weights(tensors: Sequence[ReachedTensor], chunk_bytes: int) -> Weights:
    spans = [_span(number, one) for number, one in enumerate(tensors)]
    device = next((one.device for one in spans), torch.device("cpu"))
    runs = sorted(_runs(spans), key=lambda run: run[0].number)
    described: list[Tensor] = []
    memory: list[torch.Tensor] = []
    for run in runs:
        tensor = _described(run)
        if run[0].device != device and tensor.nbytes >= min(PACK_BELOW, chunk_bytes):
            raise ManifestError(f"{tensor.name} lies on {run[0].device}, the model on {device}")
        described.append(tensor)
        memory.append(_memory(run, tensor.nbytes))
    _refuse_addresses(runs)
    manifest = Manifest("runtime", chunk_bytes, tuple(described))
    return Weights(manifest, tuple(memory), device.type)


def _span(number: int, one: ReachedTensor) -> _Span:
    """Raises `ManifestError` for a tensor whose bytes torch does not show."""
    tensor = one.tensor
    if tensor.layout is not torch.strided or _is_wrapper(tensor):
        raise ManifestError(f"{one.name} cannot travel: a {type(tensor).__name__} hides its bytes")
    if tensor.is_meta or tensor.numel() == 0:
        return _Span(one, number, tensor.device, 0, 0, "")
    found = blocked_format(tensor)
    if found is not None and tensor.element_size() > _BLOCKED_BYTES:
        raise ManifestError(
            f"{one.name} cannot travel: {tensor.dtype} in {found} is not what its memory tells"
        )
    if found is not None:
        storage = tensor.untyped_storage()
        start = storage.data_ptr()
        return _Span(one, number, tensor.device, start, start + storage.nbytes(), found)
    start = tensor.data_ptr()
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in sizes)
    return _Span(one, number, tensor.device, start, start + (last + 1) * tensor.element_size(), "")


def _is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether the bytes are in inner tensors, as torchao and some of vLLM's parameters have."""
    is_plain = type(tensor) in (torch.Tensor, nn.Parameter)
    is_wrapper = not is_plain and is_traceable_wrapper_subclass(tensor)
    return bool(is_wrapper) or hasattr(tensor, "partitions")


def _runs(spans: Sequence[_Span]) -> Iterator[list[_Span]]:
    """Spans that overlap, together, each run in the order in which they were reached."""
    yield from ([one] for one in spans if one.start == one.end)
    run: list[_Span] = []
    end = 0
    with_bytes = (one for one in spans if one.start < one.end)
    for one in sorted(with_bytes, key=lambda span: (str(span.device), span.start)):
        if run and one.device == run[0].device and one.start < end:
            run.append(one)
            end = max(end, one.end)
            continue
        if run:
            yield sorted(run, key=lambda span: span.number)
        run, end = [one], one.end
    if run:
        yield sorted(run, key=lambda span: span.number)


def _described(run: Sequence[_Span]) -> Tensor:
    first, *others = run
    start, end = min(one.start for one in run), max(one.end for one in run)
    tensor = first.reached.tensor
    # Where the first one lies matters too, if that is not the run's beginning.
    place = _place(first, start)
    aliases = [f"it lies {place}"] if place else []
    aliases += [
        f"{one.reached.name}: {_dtype(one.reached.tensor)} {tuple(one.reached.tensor.shape)} "
        f"{one.reached.tensor.stride()} {_place(one, start)}"
        for one in others
    ]
    return Tensor(
        first.reached.name,
        first.reached.kind,
        tuple(tensor.shape),
        tensor.stride(),
        _dtype(tensor),
        end - start,
        tuple(aliases),
    )


def _place(one: _Span, start: int) -> str:
    parts = [f"at byte {one.start - start}"] if one.start != start else []
    parts += [f"as {one.format}"] if one.format else []
    parts += [f"on {one.device.type}"] if one.device.type == "meta" else []
    return " ".join(parts)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _memory(run: Sequence[_Span], nbytes: int) -> torch.Tensor:
    """A run as a flat uint8 tensor of the model's own memory."""
    first = run[0]
    if nbytes == 0:
        device = "cpu" if first.device.type == "meta" else first.device
        return torch.empty(0, dtype=torch.uint8, device=device)
    blocked = next((one for one in run if one.format), None)
    if blocked is not None:
        whole = raw_bytes(blocked.reached.tensor)
        if whole.numel() != nbytes or whole.data_ptr() != run[0].start:
            name = first.reached.name
            raise ManifestError(f"{name} cannot be read as it lies in {blocked.format}")
        return whole
    storage = first.reached.tensor.untyped_storage()
    offset = min(one.start for one in run) - storage.data_ptr()
    if offset < 0 or offset + nbytes > storage.nbytes():
        raise ManifestError(f"{first.reached.name} shares memory beyond its own storage")
    data = torch.empty(0, dtype=torch.uint8, device=first.device)
    return data.set_(storage, offset, (nbytes,), (1,))


def _refuse_addresses(runs: Sequence[Sequence[_Span]]) -> None:
    """Raise `ManifestError` for integers that are addresses of this process."""
    known: torch.Tensor | None = None
    for run in runs:
        for one in run:
            tensor = one.reached.tensor
            if tensor.dtype not in _ADDRESSES or not 0 < tensor.numel() <= _MAX_ADDRESSES:
                continue
            if tensor.is_meta:
                continue
            if known is None:
                known = _mapped(runs)
            values = tensor.detach().cpu().contiguous().view(torch.int64).flatten()
            # An odd position lies between a start and its end.
            if bool((torch.searchsorted(known, values, right=True) % 2).any()):
                raise ManifestError(
                    f"{one.reached.name} holds an address of this process, useless to others"
                )


def _mapped(runs: Sequence[Sequence[_Span]]) -> torch.Tensor:
    """Starts and ends, alternating and ascending, of the memory of this process and its devices."""
    ranges = [(one.start, one.end) for run in runs for one in run if one.start < one.end]
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, _, high = line.partition(" ")[0].partition("-")
        if int(high, 16) < 1 << 63:
            ranges.append((int(low, 16), int(high, 16)))
    merged: list[list[int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return torch.tensor(merged, dtype=torch.int64, device="cpu").flatten()
