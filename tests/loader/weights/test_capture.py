from __future__ import annotations

import hashlib

import pytest
import torch
from tests.loader.support import CHUNK, Toy, equal, toy_weights
from torch import nn
from torch.nn.parameter import UninitializedParameter

from netloader.errors import ManifestError
from netloader.weights.capture import Weights, capture
from netloader.weights.manifest import ALIGN, Chunk, Piece


def holding(**tensors: torch.Tensor) -> nn.Module:
    """A module with these parameters."""
    module = nn.Module()
    for name, tensor in tensors.items():
        setattr(module, name, nn.Parameter(tensor, requires_grad=False))
    return module


def complaint(model: nn.Module) -> str:
    with pytest.raises(ManifestError) as caught:
        capture(model)
    return str(caught.value)


def test_parameters_and_buffers_are_listed_with_their_shapes() -> None:
    model = holding(a=torch.zeros(2, 3, dtype=torch.bfloat16))
    model.register_buffer("b", torch.zeros((), dtype=torch.int64))
    model.register_buffer("computed", torch.zeros(3), persistent=False)
    first, second = capture(model).manifest.tensors
    assert (first.name, first.kind, first.shape, first.stride) == ("a", "parameter", (2, 3), (3, 1))
    assert (first.dtype, first.nbytes) == ("bfloat16", 12)
    assert (second.name, second.kind, second.shape, second.nbytes) == ("b", "buffer", (), 8)


def test_tied_parameter_is_listed_once_with_its_other_names() -> None:
    manifest = toy_weights().manifest
    embed = next(tensor for tensor in manifest.tensors if tensor.name == "embed.weight")
    assert embed.aliases == ("head.weight",)
    assert all(tensor.name != "head.weight" for tensor in manifest.tensors)


def test_parameter_that_is_equal_but_not_the_same_is_no_alias() -> None:
    manifest = capture(holding(a=torch.zeros(4), b=torch.zeros(4))).manifest
    assert [tensor.aliases for tensor in manifest.tensors] == [(), ()]


def test_writing_to_a_view_writes_the_model() -> None:
    model = holding(a=torch.zeros(4, dtype=torch.int16))
    capture(model).view(Piece(0, 2, 2)).fill_(1)
    assert model.get_parameter("a").tolist() == [0, 257, 0, 0]


def test_permuted_tensor_is_described_by_its_strides_and_read_as_it_lies() -> None:
    data = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    weights = capture(holding(a=data.t()))
    assert weights.manifest.tensors[0].stride == (1, 3)
    assert weights.tensors[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_tensor_that_starts_inside_a_storage() -> None:
    data = torch.arange(10, dtype=torch.uint8)
    assert capture(holding(a=data[4:7])).tensors[0].tolist() == [4, 5, 6]


@pytest.mark.parametrize("shape", [(0,), (0, 7), (3, 0, 2)])
def test_empty_tensor_has_no_bytes(shape: tuple[int, ...]) -> None:
    weights = capture(holding(a=torch.empty(shape)))
    assert weights.manifest.nbytes == 0
    assert weights.tensors[0].shape == (0,)


def test_order_of_dimensions_of_size_one_does_not_matter() -> None:
    assert capture(holding(a=torch.zeros(4, 1, 3).as_strided((4, 1, 3), (3, 99, 1))))


class TestCannotTravel:
    def test_tensor_with_gaps(self) -> None:
        assert "a cannot travel: its memory has gaps" in complaint(
            holding(a=torch.zeros(4, 4)[:, :2])
        )

    def test_expanded_tensor(self) -> None:
        assert "gaps" in complaint(holding(a=torch.zeros(1).expand(4)))

    def test_tensor_on_the_meta_device(self) -> None:
        assert "made only while it is loaded" in complaint(holding(a=torch.zeros(4, device="meta")))

    def test_mixture_of_devices(self) -> None:
        model = holding(a=torch.zeros(4), b=torch.zeros(4, device="meta"))
        assert complaint(model).startswith("b cannot travel")

    def test_uninitialised_parameter(self) -> None:
        model = nn.Module()
        model.a = UninitializedParameter()
        assert "gets its shape only while it is loaded" in complaint(model)

    def test_parameter_with_partitions(self) -> None:
        model = holding(a=torch.zeros(4))
        model.a.partitions = {}  # type: ignore[union-attr]
        assert "keeps its bytes in inner tensors" in complaint(model)


class TestPacking:
    def test_every_packed_chunk_survives_a_round_trip(self) -> None:
        weights, other = toy_weights(1), toy_weights()
        staging = torch.empty(CHUNK, dtype=torch.uint8)
        for chunk in weights.manifest.chunks():
            data = weights.pack(chunk, staging)
            assert data.numel() == chunk.nbytes
            if chunk.packed:
                other.unpack(chunk, data)
            else:
                other.view(chunk.pieces[0]).copy_(data)
        assert equal(weights, other)

    def test_chunk_that_stands_alone_is_not_copied(self) -> None:
        weights = toy_weights(1)
        chunk = next(chunk for chunk in weights.manifest.chunks() if not chunk.packed)
        data = weights.pack(chunk, torch.empty(0, dtype=torch.uint8))
        assert data.data_ptr() == weights.view(chunk.pieces[0]).data_ptr()

    def test_gaps_travel_as_zeros_whatever_the_staging_held(self) -> None:
        weights = capture(holding(a=torch.full((10,), 1.0), b=torch.full((3,), 2.0)))
        (chunk,) = weights.manifest.chunks()
        staging = torch.full((1000,), 0xFF, dtype=torch.uint8)
        data = weights.pack(chunk, staging)
        assert not data[40:ALIGN].any()
        assert torch.equal(data[ALIGN:].view(torch.float32), torch.full((3,), 2.0))

    def test_what_arrives_in_gaps_is_ignored(self) -> None:
        weights = capture(holding(a=torch.zeros(10), b=torch.zeros(3)))
        (chunk,) = weights.manifest.chunks()
        data = torch.full((chunk.nbytes,), 0xFF, dtype=torch.uint8)
        data[:40] = 0
        data[ALIGN:] = 0
        weights.unpack(chunk, data)
        assert all(not tensor.any() for tensor in weights.tensors)


class TestContiguous:
    """Tensors that lie in memory as their chunk travels."""

    @staticmethod
    def laid_out(storage: torch.Tensor, *places: tuple[int, int]) -> tuple[Weights, Chunk]:
        parts = {f"t{at}": storage[at:end] for at, end in places}
        weights = capture(holding(**parts))
        (chunk,) = weights.manifest.chunks()
        return weights, chunk

    def test_direct_chunk_is_its_piece(self) -> None:
        weights = toy_weights(1)
        chunk = next(chunk for chunk in weights.manifest.chunks() if not chunk.packed)
        data = weights.contiguous(chunk)
        assert data is not None
        assert data.data_ptr() == weights.view(chunk.pieces[0]).data_ptr()
        assert data.shape == (chunk.nbytes,)

    def test_chunk_of_scattered_tensors_is_nowhere(self) -> None:
        weights = toy_weights(1)
        packed = [chunk for chunk in weights.manifest.chunks() if len(chunk.pieces) > 1]
        assert packed
        assert all(weights.contiguous(chunk) is None for chunk in packed)

    def test_packed_chunk_of_one_tensor_is_that_tensor(self) -> None:
        weights, chunk = self.laid_out(torch.arange(9, dtype=torch.uint8), (2, 7))
        assert chunk.packed
        assert weights.pack(chunk, torch.empty(0, dtype=torch.uint8)).tolist() == [2, 3, 4, 5, 6]

    def test_tensors_of_one_storage_in_the_chunks_layout(self) -> None:
        storage = torch.zeros(ALIGN + 7, dtype=torch.uint8)
        weights, chunk = self.laid_out(storage, (0, 10), (ALIGN, ALIGN + 7))
        data = weights.contiguous(chunk)
        assert data is not None and data.shape == (chunk.nbytes,)
        data[ALIGN] = 5
        assert weights.view(chunk.pieces[1])[0] == 5
        assert weights.contiguous(chunk) is data

    def test_storage_that_may_hold_others_in_the_gaps(self) -> None:
        storage = torch.zeros(ALIGN + 8, dtype=torch.uint8)
        weights, chunk = self.laid_out(storage, (0, 10), (ALIGN, ALIGN + 7))
        assert weights.contiguous(chunk) is None

    def test_larger_storage_is_fine_where_there_are_no_gaps(self) -> None:
        storage = torch.arange(3 * ALIGN).to(torch.uint8)
        weights, chunk = self.laid_out(storage, (ALIGN, 2 * ALIGN), (2 * ALIGN, 3 * ALIGN))
        data = weights.contiguous(chunk)
        assert data is not None and torch.equal(data, storage[ALIGN:])

    def test_other_order_or_other_distance(self) -> None:
        storage = torch.zeros(3 * ALIGN, dtype=torch.uint8)
        for places in (((ALIGN, 2 * ALIGN), (0, ALIGN)), ((0, ALIGN), (2 * ALIGN, 3 * ALIGN))):
            weights, chunk = self.laid_out(storage, *places)
            assert weights.contiguous(chunk) is None

    def test_neighbours_in_memory_that_are_two_storages(self) -> None:
        memory = bytearray(2 * ALIGN)
        halves = [
            torch.frombuffer(memory, dtype=torch.uint8, count=ALIGN, offset=at) for at in (0, ALIGN)
        ]
        weights = capture(holding(a=halves[0], b=halves[1]))
        assert weights.contiguous(weights.manifest.chunks()[0]) is None


def test_sha256_is_that_of_the_bytes() -> None:
    weights = capture(holding(a=torch.arange(4, dtype=torch.uint8), b=torch.empty(0)))
    assert weights.sha256() == {
        "a": hashlib.sha256(bytes([0, 1, 2, 3])).hexdigest(),
        "b": hashlib.sha256(b"").hexdigest(),
    }


def test_capture_keeps_the_memory_when_the_model_lets_go() -> None:
    model = Toy(1)
    weights: Weights = capture(model)
    before = weights.sha256()
    model.embed.weight = nn.Parameter(torch.empty(0))
    del model
    assert weights.sha256() == before


def test_equal_models_have_equal_manifests() -> None:
    assert toy_weights(1).manifest == toy_weights(2).manifest


def test_staging_memory_holds_any_chunk_and_each_call_gives_new_memory() -> None:
    weights = toy_weights(1)
    first, second = weights.staging(), weights.staging()
    assert first.data_ptr() != second.data_ptr()
    for chunk in weights.manifest.chunks():
        assert weights.pack(chunk, first).numel() == chunk.nbytes <= first.numel()


def test_a_whole_tensor_is_read_where_it_lies() -> None:
    weights = toy_weights(1)
    for number, data in enumerate(weights.tensors):
        assert weights.read(number) is data
    assert weights.temporary_bytes == 0
