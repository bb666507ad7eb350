from __future__ import annotations

import copy
import ctypes
import gc
import mmap
import sys
from collections.abc import Callable

import pytest
import torch
from tests.loader.support import CHUNK, Toy, equal
from torch import nn

from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange, zero_gaps
from netloader.weights.manifest import ALIGN, TINY_BELOW, Chunk
from netloader.weights.poison import LeftoverError, Poison


class Pair(nn.Module):
    """Two tensors that share a chunk, with a gap between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.arange(10, dtype=torch.float32))
        self.two = nn.Parameter(torch.arange(6, dtype=torch.int64), requires_grad=False)


def chunk_of(weights: Weights, *names: str) -> Chunk:
    """The chunk that holds these tensors and no others."""
    tensors = weights.manifest.tensors
    (chunk,) = (
        chunk
        for chunk in weights.manifest.chunks()
        if {tensors[piece.tensor].name for piece in chunk.pieces} == set(names)
    )
    return chunk


def moved(model: nn.Module) -> bool:
    """Whether the model's only chunk lies as it travels after `arrange`."""
    weights = arrange(model)
    (chunk,) = weights.manifest.chunks()
    return weights.contiguous(chunk) is not None


class TestArrange:
    def test_every_chunk_lies_as_it_travels(self) -> None:
        weights = arrange(Toy(1), CHUNK)
        assert all(weights.contiguous(chunk) is not None for chunk in weights.manifest.chunks())

    def test_a_later_capture_finds_the_same(self) -> None:
        model = Toy(1)
        weights, later = arrange(model, CHUNK), capture(model, chunk_bytes=CHUNK)
        assert later.manifest == weights.manifest == capture(Toy(1), chunk_bytes=CHUNK).manifest
        for chunk in weights.manifest.chunks():
            one, other = weights.contiguous(chunk), later.contiguous(chunk)
            assert one is not None and other is not None
            assert (one.data_ptr(), one.shape) == (other.data_ptr(), other.shape)
        assert [data.data_ptr() for data in weights.tensors] == [
            data.data_ptr() for data in later.tensors
        ]

    def test_contents_stay_bit_for_bit(self) -> None:
        before = capture(Toy(1), chunk_bytes=CHUNK)
        assert equal(arrange(Toy(1), CHUNK), before)

    def test_tensors_stay_the_same_objects(self) -> None:
        model = Pair()
        model.one.weight_loader = len  # type: ignore[attr-defined]
        one, two = model.one, model.two
        assert moved(model)
        assert model.one is one and model.two is two
        assert model.one.weight_loader is len  # type: ignore[attr-defined]
        assert model.one.requires_grad and not model.two.requires_grad
        assert model.one.is_leaf and isinstance(model.one, nn.Parameter)
        assert model.one.tolist() == list(range(10))

    def test_tied_tensors_stay_tied(self) -> None:
        model = Toy(1)
        arrange(model, CHUNK)
        assert model.head.weight is model.embed.weight

    def test_shapes_and_strides_stay(self) -> None:
        model, other = Toy(1), Toy(1)
        arrange(model, CHUNK)
        pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
        for (name, here), (_, there) in pairs:
            assert (here.shape, here.stride(), here.dtype) == (
                there.shape,
                there.stride(),
                there.dtype,
            ), name
            torch.testing.assert_close(here, there, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize(
        "dtype",
        [torch.bool, torch.float8_e4m3fn, torch.bfloat16, torch.complex64, torch.float64],
    )
    def test_all_types(self, dtype: torch.dtype) -> None:
        model = Pair()
        model.register_buffer("more", torch.ones(3, 5).to(dtype))
        assert moved(model)
        assert torch.equal(model.more, torch.ones(3, 5).to(dtype))  # type: ignore[arg-type]

    def test_subclass_of_a_parameter(self) -> None:
        class Special(nn.Parameter):
            @property
            def output_dim(self) -> int:
                return 0

        model = Pair()
        model.one = Special(torch.ones(4))
        assert moved(model)
        assert isinstance(model.one, Special) and model.one.output_dim == 0

    def test_model_is_filled_and_used_as_ever(self) -> None:
        model, source = Toy(), Toy(1)
        weights = arrange(model, CHUNK)
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), source.parameters(), strict=True):
                mine.data.copy_(theirs)
        model.load_state_dict(source.state_dict())
        model.flag.copy_(source.flag)
        assert equal(weights, capture(source, chunk_bytes=CHUNK))
        for one in (model, source):
            one.embed.weight.data.fill_(0.5)
        assert torch.equal(model.head(torch.ones(64)), source.head(torch.ones(64)))
        assert equal(capture(copy.deepcopy(model), chunk_bytes=CHUNK), weights)

    def test_gradients_work(self) -> None:
        model = Pair()
        assert moved(model)
        (model.one * 2).sum().backward()  # type: ignore[no-untyped-call]
        assert model.one.grad is not None and model.one.grad.tolist() == [2.0] * 10

    def test_what_arrives_is_in_the_model(self) -> None:
        model = Pair()
        weights = arrange(model)
        (chunk,) = weights.manifest.chunks()
        memory = weights.contiguous(chunk)
        assert memory is not None
        memory[ALIGN : ALIGN + 8] = 0xFF
        assert model.two.tolist() == [-1, 1, 2, 3, 4, 5]

    def test_again_changes_nothing(self) -> None:
        model = Pair()
        assert moved(model)
        place = model.one.data_ptr()
        assert moved(model)
        assert model.one.data_ptr() == place

    def test_tensor_left_alone_keeps_the_memory(self) -> None:
        model = Pair()
        assert moved(model)
        model.one = nn.Parameter(torch.empty(0))
        gc.collect()
        assert model.two.tolist() == list(range(6))

    def test_nothing_to_move(self) -> None:
        assert arrange(nn.Module()).tensors == ()
        model = nn.Module()
        model.only = nn.Parameter(torch.ones(3))
        place = model.only.data_ptr()
        arrange(model)
        assert model.only.data_ptr() == place

    def test_memory_that_was_never_touched_stays_zero(self) -> None:
        model = nn.Module()
        model.parts = nn.ParameterList(nn.Parameter(torch.empty(200_000)) for _ in range(3))
        before = [part.detach().clone() for part in model.parts]
        assert moved(model)
        for part, old in zip(model.parts, before, strict=True):
            assert torch.equal(part.view(torch.int32), old.view(torch.int32))


class TestMustNotMove:
    """Where somebody else may hold the address, the chunk stays as it is."""

    @pytest.mark.parametrize(
        "hold",
        [
            lambda t: t[2:],
            lambda t: t.view(2, -1),
            lambda t: t.data,
            lambda t: t.detach(),
            lambda t: t.detach().numpy(),
            lambda t: memoryview(t.detach().numpy()),
            lambda t: t.detach().__dlpack__(),
            lambda t: torch.utils.dlpack.to_dlpack(t.detach()),  # type: ignore[attr-defined]
            lambda t: t.untyped_storage(),
            lambda t: {"held": nn.Parameter(t.data)},
            lambda t: torch.as_strided(t.data, (1,), (1,), 3),
            lambda t: (t * 2).grad_fn,
        ],
        ids=[
            "slice",
            "view",
            "data",
            "detached",
            "numpy",
            "memoryview",
            "dlpack",
            "to_dlpack",
            "storage",
            "another parameter",
            "strided",
            "graph",
        ],
    )
    def test_tensor_that_is_held(self, hold: Callable[[torch.Tensor], object]) -> None:
        model = Pair()
        place = model.one.data_ptr()
        held = hold(model.one)
        assert not moved(model)
        assert model.one.data_ptr() == place
        del held

    def test_plain_tensor_exported_by_itself(self) -> None:
        for export in (torch.Tensor.numpy, torch.Tensor.__dlpack__):
            model = Pair()
            model.register_buffer("third", torch.zeros(4))
            held = export(model.third)  # type: ignore[arg-type]
            assert not moved(model)
            del held

    def test_dropped_view_is_no_hindrance(self) -> None:
        model = Pair()
        view = model.one.data[2:]
        del view
        assert moved(model)

    def test_names_of_one_object_are_no_hindrance(self) -> None:
        model = Pair()
        model.again = model.one
        model.inner = nn.ParameterList([model.one])
        held = model.one
        assert moved(model)
        assert model.again is model.one is model.inner[0] is held

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.zeros(10)[2:],
            torch.zeros(10)[:8],
            torch.frombuffer(bytearray(40), dtype=torch.float32),
            torch.zeros(8).share_memory_(),
        ],
        ids=["offset", "prefix", "foreign", "shared"],
    )
    def test_tensor_whose_storage_is_not_its_own(self, tensor: torch.Tensor) -> None:
        model = Pair()
        model.register_buffer("third", tensor)
        assert not moved(model)

    def test_tensor_with_a_gradient(self) -> None:
        model = Pair()
        model.one.sum().backward()  # type: ignore[no-untyped-call]
        assert not moved(model)

    def test_two_parameters_over_one_storage(self) -> None:
        model = Pair()
        model.part = nn.Parameter(model.one.data[:5])
        assert not moved(model)
        model.part.data.fill_(7)
        assert model.one[:5].tolist() == [7.0] * 5

    def test_only_its_chunk_stays(self) -> None:
        model = Toy(1)
        held = model.bias.view(-1)
        weights = arrange(model, 16 * 1024)
        packed = [chunk for chunk in weights.manifest.chunks() if len(chunk.pieces) > 1]
        stayed = [chunk for chunk in packed if weights.contiguous(chunk) is None]
        assert len(packed) > len(stayed) == 1
        del held


class TestGaps:
    def test_are_zero_in_new_memory(self) -> None:
        weights, gap = self.gap()
        assert not gap.any() and gap.numel() == ALIGN - 40
        del weights

    def test_are_zeroed_again(self) -> None:
        weights, gap = self.gap()
        before = weights.sha256()
        gap.fill_(3)
        zero_gaps(weights)
        assert not gap.any()
        assert weights.sha256() == before

    def test_of_tensors_that_stayed_are_nobodys_business(self) -> None:
        weights = capture(Toy(1), chunk_bytes=CHUNK)
        before = weights.sha256()
        zero_gaps(weights)
        assert weights.sha256() == before

    @staticmethod
    def gap() -> tuple[Weights, torch.Tensor]:
        weights = arrange(Pair())
        (chunk,) = weights.manifest.chunks()
        memory = weights.contiguous(chunk)
        assert memory is not None
        ((first, end),) = chunk.gaps()
        return weights, memory[first:end]


class TestAbandoned:
    """What a pull leaves in such memory when it is given up."""

    def test_small_tensors_get_back_what_they_held(self) -> None:
        model = Pair()
        weights = arrange(model)
        (chunk,) = weights.manifest.chunks()
        memory = weights.contiguous(chunk)
        assert memory is not None
        memory.fill_(0xAA)
        poison = Poison.over(weights, chunk.pieces)
        zero_gaps(weights)
        assert model.one.tolist() == list(range(10))
        assert model.two.tolist() == list(range(6))
        assert not any(memory[first:end].any() for first, end in chunk.gaps())
        poison.check_gone(model)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs to know what was touched")
    def test_larger_parameters_do_where_most_of_the_chunk_was_empty(self) -> None:
        model, first = self.mostly_empty()
        weights = arrange(model)
        chunk = chunk_of(weights, "large", "full")
        memory = weights.contiguous(chunk)
        assert memory is not None
        memory.fill_(0xAA)
        Poison.over(weights, chunk.pieces).check_gone(model)
        assert torch.equal(model.large, first)  # type: ignore[arg-type]
        assert bool((model.full == 3).all())  # type: ignore[arg-type]

    def test_larger_parameters_must_come_from_storage_where_it_was_full(self) -> None:
        model = Pair()
        model.large = nn.Parameter(torch.ones(TINY_BELOW, dtype=torch.uint8), requires_grad=False)
        model.full = nn.Parameter(torch.ones(TINY_BELOW, dtype=torch.uint8), requires_grad=False)
        weights = arrange(model)
        assert weights.contiguous(chunk_of(weights, "large", "full")) is not None
        every = [piece for chunk in weights.manifest.chunks() for piece in chunk.pieces]
        poison = Poison.over(weights, tuple(every))
        assert model.one.tolist() == list(range(10))
        with pytest.raises(LeftoverError, match="large"):
            poison.check_gone(model)
        model.large.data.zero_()
        with pytest.raises(LeftoverError, match="full"):
            poison.check_gone(model)
        model.full.data.zero_()
        poison.check_gone(model)

    @pytest.mark.skipif(sys.platform != "linux", reason="needs to know what was touched")
    def test_little_is_written_only_when_it_is_asked_for(self) -> None:
        model, first = self.mostly_empty()
        weights = arrange(model, leave_empty=True)
        chunk = chunk_of(weights, "large", "full")
        assert weights.contiguous(chunk) is not None
        assert not any(weights.view(piece).any() for piece in chunk.pieces)
        weights.put_back_all()
        assert torch.equal(model.large, first)  # type: ignore[arg-type]
        assert bool((model.full == 3).all())  # type: ignore[arg-type]
        assert model.one.tolist() == list(range(10))

    def test_much_is_written_at_once(self) -> None:
        model = Pair()
        weights = arrange(model, leave_empty=True)
        assert model.one.tolist() == list(range(10))
        weights.put_back_all()
        assert model.one.tolist() == list(range(10))

    @staticmethod
    def mostly_empty() -> tuple[Pair, torch.Tensor]:
        """A model with a large parameter of which two places were touched, and what it holds.

        A small part of its chunk, `full`, holds threes.
        """
        model = Pair()
        large = torch.empty(3 << 20, dtype=torch.uint8)
        # torch may hand out memory that was in use before: give its pages back to the system.
        first, page = large.data_ptr(), mmap.PAGESIZE
        start, end = -(-first // page) * page, (first + large.numel()) // page * page
        large[: start - first] = large[end - first :] = 0
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        # Without large pages, which it may have from its last use: one byte would touch 2 MiB.
        assert madvise(start, end - start, 15) == 0
        assert madvise(start, end - start, 4) == 0
        large[5], large[2 << 20] = 7, 9
        model.large = nn.Parameter(large, requires_grad=False)
        full = torch.full((TINY_BELOW,), 3, dtype=torch.uint8)
        model.full = nn.Parameter(full, requires_grad=False)
        held = torch.zeros_like(large)  # No clone: reading is touching.
        held[5], held[2 << 20] = 7, 9
        return model, held

    def test_buffers_get_theirs_back_whatever_their_size(self) -> None:
        model = Pair()
        model.register_buffer("cache", torch.full((300_000,), 5, dtype=torch.uint8))
        model.register_buffer("mask", torch.full((TINY_BELOW,), 6, dtype=torch.uint8))
        weights = arrange(model)
        chunk = chunk_of(weights, "cache", "mask")
        memory = weights.contiguous(chunk)
        assert memory is not None
        memory.fill_(0xAA)
        Poison.over(weights, chunk.pieces).check_gone(model)
        assert bool((model.cache == 5).all())  # type: ignore[arg-type]
        assert bool((model.mask == 6).all())  # type: ignore[arg-type]

    def test_tensor_alone_in_its_chunk_gets_its_contents_back_too(self) -> None:
        model = nn.Module()
        model.only = nn.Parameter(torch.full((5,), 3.0), requires_grad=False)
        weights = arrange(model)
        (chunk,) = weights.manifest.chunks()
        weights.view(chunk.pieces[0]).fill_(0xAA)
        Poison.over(weights, chunk.pieces)
        assert model.only.tolist() == [3.0] * 5

    def test_model_that_was_arranged_before_gets_its_contents_back_too(self) -> None:
        model = Pair()
        arrange(model)
        weights = arrange(model)
        (chunk,) = weights.manifest.chunks()
        memory = weights.contiguous(chunk)
        assert memory is not None
        memory.fill_(0xAA)
        Poison.over(weights, chunk.pieces)
        assert model.one.tolist() == list(range(10))
