"""Weights on an NPU as bytes: read where they lie, and read back once vLLM has converted them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
import torch
import torch_npu
from torch import nn

from netloader.errors import ManifestError
from netloader.terms import KeepMode
from netloader.weights import digests, formats
from netloader.weights.capture import Weights, capture
from netloader.weights.retain import changed, keep, plan, settle

DEVICE = "npu:0"
ND, NZ = 2, 29
CHUNK: Final = 64 * 1024
"""Bytes of a chunk: large tensors here span several, and the others share some."""


@pytest.fixture(autouse=True)
def internal_formats() -> None:
    torch.npu.config.allow_internal_format = True


def cast(tensor: torch.Tensor) -> torch.Tensor:
    return torch_npu.npu_format_cast(tensor, NZ)


def turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(-1, -2).contiguous()


def as_int32(tensor: torch.Tensor) -> torch.Tensor:
    """Where it is int8 and its rows allow that."""
    fits = tensor.dtype == torch.int8 and tensor.shape[-1] % 4 == 0
    return tensor.view(torch.int32).contiguous() if fits else tensor


PROCESSES: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "nothing": lambda tensor: tensor,
    "NZ": cast,
    "turned": turned,
    "turned, NZ": lambda tensor: cast(turned(tensor)),
    "NZ, then a turned view": lambda tensor: cast(tensor).transpose(-1, -2),
    "turned, NZ, as int32": lambda tensor: as_int32(cast(turned(tensor))),
}
"""What vLLM Ascend's methods do to weights: unquantised, expert, W8A8 and W4A8, and 310P layers."""

SHAPES: Final[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = {
    "dense": (torch.bfloat16, (200, 300)),
    "square": (torch.bfloat16, (96, 96)),
    "halves": (torch.float16, (50, 70)),
    "quantised": (torch.int8, (300, 170)),
    "packed": (torch.int8, (36, 130)),  # W4A8: two int4 in an int8, rows halved.
    "experts": (torch.bfloat16, (4, 40, 72)),
    "quantised_experts": (torch.int8, (3, 64, 96)),
    "padded_experts": (torch.bfloat16, (5, 33, 68)),
    "two_stacks": (torch.float16, (2, 3, 17, 20)),
    "row": (torch.bfloat16, (1, 64)),
    "column": (torch.bfloat16, (64, 1)),
}


class Model(nn.Module):
    """A tensor of every kind, and a norm that stays."""

    def __init__(self, seed: int, device: str = DEVICE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, (dtype, shape) in {**SHAPES, "norm": (torch.bfloat16, (300,))}.items():
            values = torch.randint(-100, 100, shape, generator=generator).to(dtype)
            setattr(self, name, nn.Parameter(values.to(device), requires_grad=False))
        self.register_buffer("scale", torch.full((5,), float(seed)).to(device))

    def process(self, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """As vLLM's quantisation methods do: the parameter stays, its data is replaced."""
        for name in SHAPES:
            parameter = getattr(self, name)
            parameter.data = how(parameter.data)

    def bytes_of(self) -> dict[str, str]:
        return capture(self, chunk_bytes=CHUNK).sha256()


def promised(weights: Weights) -> tuple[bytes, ...]:
    return digests.of_weights(weights, weights.manifest.chunks())


def transfer(source: Weights, replica: Weights) -> None:
    """Every chunk as it would travel, over fresh memory."""
    assert source.manifest == replica.manifest
    for chunk in source.manifest.chunks():
        data = source.pack(chunk, source.staging())
        in_place = replica.contiguous(chunk)
        if in_place is not None:
            in_place.copy_(data)
        else:
            replica.unpack(chunk, data.clone())


@pytest.mark.parametrize("how", PROCESSES, ids=str)
def test_loaded_bytes_are_read_back_from_what_post_processing_left(how: str) -> None:
    source, replica = Model(1), Model(2)
    wanted = source.bytes_of()
    before = capture(source, chunk_bytes=CHUNK)
    fixed = promised(before)
    kept = keep(before, KeepMode.NO, None)
    del before
    source.process(PROCESSES[how])
    originals = settle(kept, source)
    assert changed(originals.weights, fixed) == []
    assert originals.extra_bytes == source.scale.nbytes
    assert bool(originals.weights.recast) == (how != "nothing")
    transfer(originals.weights, capture(replica, chunk_bytes=CHUNK))
    assert replica.bytes_of() == wanted
    # What was read is as it was: vLLM's operators go by the format that torch_npu remembers.
    blocked = {name for name, t in source.named_parameters() if formats.blocked_format(t)}
    assert blocked == (set(SHAPES) if "NZ" in how else set())


def test_a_thread_that_has_chosen_no_device_reads_the_models() -> None:
    """A new thread is on device 0. Sessions and the check before serving run in such threads."""
    source = Model(1, "npu:1")
    before = capture(source, chunk_bytes=CHUNK)
    fixed = promised(before)
    kept = keep(before, KeepMode.NO, None)
    source.process(PROCESSES["turned, NZ"])
    weights = settle(kept, source).weights
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.npu.current_device).result() == 0
        assert pool.submit(changed, weights, fixed).result() == []
        for chunk in weights.manifest.chunks():
            packed = pool.submit(weights.pack, chunk, weights.staging()).result()
            assert packed.device == torch.device("npu:1")
            assert digests.of_bytes(packed.to(DEVICE)) == fixed[chunk.id]


def test_other_values_in_the_same_format_are_found() -> None:
    source = Model(1)
    before = capture(source, chunk_bytes=CHUNK)
    fixed = promised(before)
    kept = keep(before, KeepMode.NO, None)
    source.process(lambda tensor: cast(tensor + 1))
    # Shapes tell nothing of a square matrix, so that one's digest was compared already.
    with pytest.raises(ManifestError, match=r"replaced 1 tensors \(square first\)"):
        settle(kept, source)
    source.square.data = Model(1).square.data
    found = changed(settle(kept, source).weights, fixed)
    assert set(SHAPES) - {"square"} <= set(found)


@pytest.mark.parametrize("mode", [KeepMode.HBM, KeepMode.DRAM])
@pytest.mark.parametrize("names", [None, ["quantised"]], ids=["all", "some"])
def test_originals_are_kept_where_they_are_asked_for(
    mode: KeepMode, names: list[str] | None
) -> None:
    source, replica = Model(1), Model(2)
    wanted = source.bytes_of()
    before = capture(source, chunk_bytes=CHUNK)
    fixed = promised(before)
    kept = keep(before, mode, names)
    del before
    source.process(PROCESSES["turned, NZ"])
    originals = settle(kept, source)
    assert changed(originals.weights, fixed) == []
    tensors = originals.weights.manifest.tensors
    asked = {name for name in SHAPES if names is None or names[0] in name}
    recast = {tensors[number].name for number in originals.weights.recast}
    assert recast == set(SHAPES) - asked
    sizes = {tensor.name: tensor.nbytes for tensor in tensors}
    assert originals.extra_bytes >= sum(sizes[name] for name in asked)
    where = {"cpu"} if mode is KeepMode.DRAM else {"npu"}
    assert {
        data.device.type
        for tensor, data in zip(tensors, originals.weights.tensors, strict=True)
        if tensor.name in asked
    } == where
    transfer(originals.weights, capture(replica, chunk_bytes=CHUNK))
    assert replica.bytes_of() == wanted


@pytest.mark.parametrize("mode", [None, *KeepMode])
def test_no_tensor_shares_its_storage(mode: KeepMode | None) -> None:
    assert not plan(Model(1), mode, None, None, 0).may_share


def test_a_tensor_that_was_built_in_another_format_does_not_travel() -> None:
    """A flat view of it gives neither the format's bytes nor the rows'."""
    model = Model(1)
    model.process(cast)
    with pytest.raises(ManifestError, match=r"dense cannot travel: .* format FRACTAL_NZ"):
        capture(model)


def test_reading_and_writing_flat_views_leaves_torch_npus_descriptions_alone() -> None:
    """vLLM converts the tensors after we have filled them. torch_npu converts by the description of
    the storage, and falls back to ND when it does not fit the tensor."""
    model = Model(1)
    values = {name: getattr(model, name).cpu() for name in SHAPES}
    weights = capture(model, chunk_bytes=CHUNK)
    promised(weights)
    for chunk in weights.manifest.chunks():
        weights.unpack(chunk, weights.pack(chunk, weights.staging()).clone())
    for data in weights.tensors:
        data.copy_(data.cpu())
        data.copy_(data.clone())
    kept = keep(weights, KeepMode.NO, None)
    settle(kept, model)
    for name in SHAPES:
        converted = cast(getattr(model, name).data)
        assert formats.blocked_format(converted) == "FRACTAL_NZ"
        assert torch.equal(converted.cpu(), values[name])


@pytest.mark.parametrize("how", ["NZ", "turned, NZ"])
def test_reading_takes_no_more_memory_than_is_told(how: str) -> None:
    source = Model(1)
    kept = keep(capture(source, chunk_bytes=CHUNK), KeepMode.NO, None)
    source.process(PROCESSES[how])
    weights = settle(kept, source).weights
    staging = weights.staging()
    largest = max(tensor.nbytes for tensor in weights.manifest.tensors)
    assert weights.temporary_bytes <= 2 * largest + CHUNK
    torch.npu.synchronize()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    for chunk in weights.manifest.chunks():
        weights.pack(chunk, staging)
    # torch_npu rounds each allocation up to a multiple of 512 bytes and adds 32.
    assert torch.npu.max_memory_allocated() - before <= weights.temporary_bytes + 8 * 1024


@pytest.mark.parametrize("how", ["NZ", "turned, NZ"])
def test_experts_are_converted_one_by_one(how: str) -> None:
    """A stack of all experts may be as large as what is left of the device."""
    stack = (torch.arange(64 * 64 * 96) % 251).to(torch.bfloat16).reshape(64, 64, 96)
    now = PROCESSES[how](stack.to(DEVICE))
    (one,) = formats.recasts(now, stack.dtype, tuple(stack.shape), threading.Lock())
    assert one.memory_for(stack[0].nbytes) < 4 * stack[0].nbytes
    target = torch.empty(stack[:2].nbytes, dtype=torch.uint8, device=DEVICE)
    torch.npu.synchronize()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    one.copy_to(target, stack[0].nbytes // 2)
    torch.npu.synchronize()
    rows = stack[0].nbytes
    told = one.memory_for(target.numel())
    assert torch.npu.max_memory_allocated() - before <= told + 8 * 1024
    wanted = formats.flat_bytes(stack)[rows // 2 :][: target.numel()]
    assert torch.equal(target.cpu(), wanted)


def test_wide_elements_are_converted_as_a_whole() -> None:
    stack = torch.arange(4 * 40 * 72, dtype=torch.float32).reshape(4, 40, 72)
    (one,) = formats.recasts(cast(stack.to(DEVICE)), stack.dtype, (4, 40, 72), threading.Lock())
    assert torch.equal(one.whole().cpu(), formats.flat_bytes(stack))
