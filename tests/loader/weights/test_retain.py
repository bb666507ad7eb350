from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tests.fastest import HANG_S
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from netloader.errors import ManifestError
from netloader.system.memory import Available
from netloader.terms import KeepMode
from netloader.weights.capture import Weights, capture
from netloader.weights.coalesce import arrange
from netloader.weights.digests import of_weights
from netloader.weights.manifest import Chunk
from netloader.weights.retain import HEADROOM_BYTES, Plan, changed, fits, keep, plan, settle

MEGABYTES = (200, 24)
"""Of models whose memory is measured: several chunks, and all in one chunk."""

LARGE = 64 * 1024
"""Bytes from which on a tensor is referenced rather than copied."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.ones(LARGE, dtype=torch.uint8), requires_grad=False)
        self.small = nn.Parameter(torch.ones(8, dtype=torch.uint8), requires_grad=False)
        self.none = nn.Parameter(torch.empty(0, 3))


def model() -> Model:
    return Model()


def test_tensors_that_survive_cost_nothing() -> None:
    made = model()
    originals = settle(keep(capture(made), KeepMode.NO, None), made)
    assert originals.extra_bytes == 0
    assert originals.weights.sha256() == capture(made).sha256()


def test_replaced_tensor_that_was_not_kept_is_gone() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.NO, None)
    made.large = nn.Parameter(torch.empty(0))
    with pytest.raises(ManifestError, match=r"replaced 1 tensors \(large first\).*INT8_CACHE"):
        settle(kept, made)


class Matrices(nn.Module):
    """Of which post-processing turns some."""

    def __init__(self, side: int = 300) -> None:
        super().__init__()
        for name, shape in (("wide", (200, 300)), ("square", (side, side)), ("tiny", (2, 3))):
            values = torch.arange(shape[0] * shape[1]).reshape(shape).to(torch.int8)
            setattr(self, name, nn.Parameter(values, requires_grad=False))

    def turn(self, *names: str) -> None:
        for name in names:
            turned = getattr(self, name).data.t().contiguous()
            setattr(self, name, nn.Parameter(turned, requires_grad=False))


class TestRecast:
    """Nothing is kept, and what was loaded is read back from what took its place."""

    @staticmethod
    def settled(made: nn.Module, process: Callable[[], object]) -> tuple[Weights, list[str]]:
        """What is served after `process`, and which of it is not what was loaded."""
        before = capture(made)
        promised = of_weights(before, before.manifest.chunks())
        kept = keep(before, KeepMode.NO, None)
        del before
        process()
        originals = settle(kept, made)
        assert originals.cost_bytes == 0
        return originals.weights, changed(originals.weights, promised)

    @pytest.mark.parametrize(
        "names",
        [(), ("wide",), ("square",), ("tiny",), ("wide", "square", "tiny")],
        ids=lambda names: "+".join(names) or "none",
    )
    def test_swapped_dimensions_are_read_back(self, names: tuple[str, ...]) -> None:
        made = Matrices()
        before = capture(made).sha256()
        weights, different = self.settled(made, lambda: made.turn(*names))
        assert different == []
        assert weights.sha256() == before
        assert {weights.manifest.tensors[number].name for number in weights.recast} == set(names)

    def test_a_square_matrix_that_was_copied_but_not_turned(self) -> None:
        made = Matrices()
        copy = nn.Parameter(made.square.data.clone(), requires_grad=False)
        weights, different = self.settled(made, lambda: setattr(made, "square", copy))
        assert (different, len(weights.recast)) == ([], 1)

    def test_other_values_of_the_same_shape_are_found_before_they_are_served(self) -> None:
        made = Matrices()
        other = nn.Parameter(made.wide.data + 1, requires_grad=False)
        _, different = self.settled(made, lambda: setattr(made, "wide", other))
        assert "wide" in different

    def test_a_square_matrix_with_other_values_is_gone(self) -> None:
        made = Matrices()
        other = nn.Parameter(made.square.data + 1, requires_grad=False)
        with pytest.raises(ManifestError, match="square first"):
            self.settled(made, lambda: setattr(made, "square", other))

    def test_a_tensor_with_permuted_memory_is_not_guessed_at(self) -> None:
        made = Matrices()
        made.wide = nn.Parameter(made.wide.data.t(), requires_grad=False)
        turned = nn.Parameter(made.wide.data.contiguous(), requires_grad=False)
        with pytest.raises(ManifestError, match="wide first"):
            self.settled(made, lambda: setattr(made, "wide", turned))

    def test_it_travels_in_chunks_like_any_other(self) -> None:
        made = Matrices()
        before = capture(made, chunk_bytes=16 * 1024)
        wanted = [
            before.pack(chunk, before.staging()).clone() for chunk in before.manifest.chunks()
        ]
        kept = keep(before, KeepMode.NO, None)
        made.turn("wide", "square", "tiny")
        weights = settle(kept, made).weights
        chunks = weights.manifest.chunks()
        assert all(weights.contiguous(chunk) is None for chunk in chunks)
        packed = [weights.pack(chunk, weights.staging()) for chunk in chunks]
        assert all(map(torch.equal, packed, wanted))


@pytest.mark.parametrize("rewrite", ["replaced", "in place", "not at all"])
def test_small_tensor_is_kept_in_any_mode_where_the_plan_says_so(rewrite: str) -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.NO, None, frozenset({"small"}))
    if rewrite == "replaced":
        made.small = nn.Parameter(torch.empty(0))
    elif rewrite == "in place":
        made.small.data.mul_(3)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == (0 if rewrite == "not at all" else 8)


@pytest.mark.parametrize("mode", [KeepMode.DRAM, KeepMode.HBM])
def test_replaced_tensor_that_was_kept_is_served_and_costs_its_bytes(mode: KeepMode) -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), mode, None)
    made.large = nn.Parameter(torch.empty(0))
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == LARGE


def test_small_tensor_rewritten_in_place_is_served_as_it_was() -> None:
    made = model()
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.DRAM, None)
    with torch.no_grad():
        made.small.mul_(2)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == 8


def test_small_tensor_that_was_left_alone_is_not_held_twice() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.DRAM, None)
    originals = settle(kept, made)
    assert originals.extra_bytes == 0
    assert originals.weights.tensors[1].data_ptr() == made.small.data_ptr()


def test_small_buffer_is_served_as_it_was_whatever_inference_writes_to_it() -> None:
    made = model()
    made.register_buffer("scale", torch.ones(4))
    before = capture(made).sha256()
    originals = settle(keep(capture(made), KeepMode.DRAM, None), made)
    made.scale.fill_(2)  # type: ignore[operator]
    assert originals.weights.sha256() == before
    assert originals.extra_bytes == 16


def test_replaced_small_tensor_is_served_from_where_it_was_loaded() -> None:
    made = model()
    loaded = made.small.data_ptr()
    kept = keep(capture(made), KeepMode.DRAM, None)
    made.small = nn.Parameter(torch.empty(0))
    originals = settle(kept, made)
    assert originals.extra_bytes == 8
    assert originals.weights.tensors[1].data_ptr() == loaded


def test_originals_know_where_the_model_was() -> None:
    made = model()
    before = dataclasses.replace(capture(made), device_type="accelerator")
    assert settle(keep(before, KeepMode.DRAM, None), made).weights.device_type == "accelerator"


class TestSharedStorage:
    """Tensors that `arrange` has put together: large ones in one chunk, small ones in another."""

    class Twins(Model):
        def __init__(self) -> None:
            super().__init__()
            for name in ("large", "small"):
                twin = nn.Parameter(getattr(self, name).clone(), requires_grad=False)
                setattr(self, f"{name}_twin", twin)

    @staticmethod
    def chunk_of(weights: Weights, name: str) -> Chunk:
        """The chunk that holds `name` and its twin, and no others."""
        tensors = weights.manifest.tensors
        (chunk,) = (
            chunk
            for chunk in weights.manifest.chunks()
            if [tensors[piece.tensor].name for piece in chunk.pieces] == [name, f"{name}_twin"]
        )
        return chunk

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_chunk_still_lies_as_it_travels(self, name: str) -> None:
        made = self.Twins()
        arrange(made)
        originals = settle(keep(capture(made), KeepMode.DRAM, None), made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_chunk_still_does_when_one_was_replaced(self, name: str) -> None:
        made = self.Twins()
        before = arrange(made).sha256()
        kept = keep(capture(made), KeepMode.DRAM, None)
        nbytes = getattr(made, name).nbytes
        setattr(made, name, nn.Parameter(torch.empty(0)))
        originals = settle(kept, made)
        chunk = self.chunk_of(originals.weights, name)
        assert originals.weights.contiguous(chunk) is not None
        assert originals.weights.sha256() == before
        # Its neighbour keeps that memory, whether peers are served or not.
        assert (originals.extra_bytes, originals.stuck_bytes) == (0, nbytes)
        assert originals.cost_bytes == nbytes

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_a_neighbour_in_use_does_not_make_a_replaced_one_survive(self, name: str) -> None:
        made = self.Twins()
        arrange(made)
        kept = keep(capture(made), KeepMode.NO, None)
        setattr(made, name, nn.Parameter(torch.empty(0)))
        with pytest.raises(ManifestError, match=rf"replaced 1 tensors \({name} first\)"):
            settle(kept, made)

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_all_replaced_cost_their_whole_chunk(self, name: str) -> None:
        made = self.Twins()
        arrange(made)
        weights = capture(made)
        chunk = self.chunk_of(weights, name)
        kept = keep(weights, KeepMode.DRAM, None)
        for replaced in (name, f"{name}_twin"):
            setattr(made, replaced, nn.Parameter(torch.empty(0)))
        originals = settle(kept, made)
        assert (originals.extra_bytes, originals.stuck_bytes) == (chunk.nbytes, 0)

    def test_memory_that_the_model_itself_shares_is_no_cost_of_ours(self) -> None:
        made = model()
        fused = torch.ones(3 * LARGE, dtype=torch.uint8)
        made.large = nn.Parameter(fused[:LARGE], requires_grad=False)
        made.other = nn.Parameter(fused[2 * LARGE :], requires_grad=False)
        kept = keep(capture(made), KeepMode.DRAM, None)
        del made.large
        assert settle(kept, made).cost_bytes == 0

    def test_chunk_is_packed_when_one_was_rewritten(self) -> None:
        made = self.Twins()
        before = arrange(made).sha256()
        weights = capture(made)
        promised = of_weights(weights, weights.manifest.chunks())
        kept = keep(weights, KeepMode.DRAM, None)
        made.small.data.mul_(2)
        originals = settle(kept, made)
        assert originals.weights.contiguous(self.chunk_of(originals.weights, "small")) is None
        assert originals.weights.contiguous(self.chunk_of(originals.weights, "large")) is not None
        assert originals.weights.sha256() == before
        assert changed(originals.weights, promised) == []

    @pytest.mark.parametrize("name", ["large", "small"])
    def test_all_of_them_are_gone_when_all_were_replaced(self, name: str) -> None:
        made = self.Twins()
        arrange(made)
        kept = keep(capture(made), KeepMode.NO, None)
        for replaced in (name, f"{name}_twin"):
            setattr(made, replaced, nn.Parameter(torch.empty(0)))
        with pytest.raises(ManifestError, match=rf"replaced 2 tensors \({name} first\)"):
            settle(kept, made)


def test_names_choose_what_is_kept() -> None:
    made = model()
    kept = keep(capture(made), KeepMode.DRAM, ["lar"])
    made.large = nn.Parameter(torch.empty(0))
    assert settle(kept, made).extra_bytes == LARGE
    kept = keep(capture(model()), KeepMode.DRAM, ["sma"])
    with pytest.raises(ManifestError, match="large first"):
        settle(kept, made)


def test_rewritten_tensors_are_named() -> None:
    weights = capture(model())
    promised = of_weights(weights, weights.manifest.chunks())
    assert changed(weights, promised) == []
    weights.tensors[1][3] = 0
    assert "small" in changed(weights, promised)


def pack_linear(made: nn.Module) -> None:
    """What vLLM does on a CPU with AVX-512: pack each linear weight, drop the original."""
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            packed = layer.weight.detach().clone()
            layer.cpu_linear = lambda x, packed=packed: nn.functional.linear(x, packed)
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


class Mlp(nn.Module):
    """An embedding and a norm, which survive packing, and linear weights, which do not."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))


@pytest.mark.parametrize(("width", "layers"), [(16, 2), (512, 3), (2304, 2)])
class TestPackedWeights:
    """Tiny weights in one chunk with norms; medium ones with the embedding; large ones alone."""

    def test_all_are_served_and_their_cost_is_told(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        before = arrange(made).sha256()
        kept = keep(capture(made), KeepMode.DRAM, None)
        pack_linear(made)
        originals = settle(kept, made)
        assert originals.weights.sha256() == before
        assert originals.cost_bytes == pytest.approx(layers * width * width * 4, rel=0.01)

    def test_one_that_keeps_nothing_is_no_source(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        kept = keep(capture(made), KeepMode.NO, None)
        pack_linear(made)
        reason = rf"replaced {layers} tensors \(layers.0.weight first\)"
        with pytest.raises(ManifestError, match=reason):
            settle(kept, made)

    def test_one_that_keeps_nothing_holds_nothing(self, width: int, layers: int) -> None:
        made = Mlp(width, layers)
        weights = (made.get_parameter(f"layers.{n}.weight") for n in range(layers))
        storages = [StorageWeakRef(weight.untyped_storage()) for weight in weights]  # type: ignore[no-untyped-call]
        kept = keep(capture(made), KeepMode.NO, None)
        pack_linear(made)
        # During post-processing already: a server that just fits must not need twice its weights.
        assert all(storage.expired() for storage in storages)
        assert len(kept.held) == len(kept.manifest.tensors)


def as_view(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(2, -1), requires_grad=False)


def as_transposed(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(2, -1).t(), requires_grad=False)


def as_slice(made: Model) -> None:
    made.large = nn.Parameter(made.large[-8:], requires_grad=False)


def as_strided_slice(made: Model) -> None:
    made.large = nn.Parameter(made.large.view(8, -1)[2:4, ::3], requires_grad=False)


def as_alias(made: Model) -> None:
    made.register_parameter("tied", made.large)
    del made.large


def as_attribute(made: Model) -> None:
    data = made.large.data
    del made.large
    object.__setattr__(made, "packed", data)


def in_container(made: Model) -> None:
    made.parts = [{"w": made.large.data}]
    del made.large


def in_kernel(made: Model) -> None:
    made.kernel = SimpleNamespace(weights=(made.large.data,))
    del made.large


def in_closure(made: Model) -> None:
    data = made.large.data
    made.apply_kernel = lambda: data
    del made.large


def in_partial(made: Model) -> None:
    made.apply_kernel = functools.partial(torch.add, made.large.data)
    del made.large


def on_parameter(made: Model) -> None:
    made.small.scale_of = made.large.data  # type: ignore[attr-defined]
    del made.large


USES = [
    *(as_view, as_transposed, as_slice, as_strided_slice, as_alias),
    *(as_attribute, in_container, in_kernel, in_closure, in_partial, on_parameter),
]


@pytest.mark.parametrize("arranged", [False, True])
@pytest.mark.parametrize("use", USES)
def test_tensor_whose_bytes_are_in_use_survived(
    use: Callable[[Model], None], arranged: bool
) -> None:
    made = TestSharedStorage.Twins()
    if arranged:
        arrange(made)
    before = capture(made).sha256()
    kept = keep(capture(made), KeepMode.NO, None)
    use(made)
    originals = settle(kept, made)
    assert originals.weights.sha256() == before
    assert originals.cost_bytes == 0


def test_what_this_package_holds_is_no_use_by_the_model() -> None:
    made = model()
    weights = capture(made)
    kept = keep(weights, KeepMode.DRAM, None)
    made.large = nn.Parameter(torch.empty(0))
    made.loaded_by = weights
    assert settle(kept, made).extra_bytes == LARGE


def test_memory_that_was_used_again_is_not_taken_for_the_original() -> None:
    made = model()
    # A mapping of fixed place stands for an allocator that hands the same memory out again.
    place = mmap.mmap(-1, LARGE)
    made.large = nn.Parameter(torch.frombuffer(place, dtype=torch.uint8), requires_grad=False)
    kept = keep(capture(made), KeepMode.NO, None)
    made.large = nn.Parameter(torch.empty(0))
    made.packed = torch.frombuffer(place, dtype=torch.uint8)
    with pytest.raises(ManifestError, match="large first"):
        settle(kept, made)


@pytest.mark.parametrize("mode", KeepMode)
@pytest.mark.parametrize("nbytes", [16, LARGE, 4 * LARGE])
def test_buffer_is_never_served_from_where_the_model_writes(mode: KeepMode, nbytes: int) -> None:
    made = model()
    made.register_buffer("state", torch.ones(nbytes, dtype=torch.uint8))
    weights = capture(made)
    before = weights.sha256()
    promised = of_weights(weights, weights.manifest.chunks())
    originals = settle(keep(weights, mode, None), made)
    made.state.fill_(2)  # type: ignore[operator]
    assert originals.weights.sha256() == before
    assert changed(originals.weights, promised) == []
    assert originals.cost_bytes == nbytes


class TestPlan:
    @staticmethod
    def left(nbytes: int) -> Available:
        return Available(nbytes, "memory.max of /pod")

    def test_a_cpu_keeps_by_default(self) -> None:
        assert plan(model(), None, None, None, 0) == Plan(KeepMode.DRAM, True)

    def test_who_wants_nothing_kept_shares_no_storage(self) -> None:
        assert plan(model(), KeepMode.NO, None, None, 0) == Plan(KeepMode.NO, False)

    def test_an_accelerator_keeps_nothing_by_default(self) -> None:
        made = Mlp(16, 1).to("meta")
        assert plan(made, None, None, self.left(0), 0) == Plan(KeepMode.NO, True)

    def test_an_accelerator_keeps_scales_unless_it_is_told_to_keep_nothing(self) -> None:
        made = nn.ModuleDict({"norm": nn.LayerNorm(64), "linear": nn.Linear(64, 32)})
        scale = nn.Parameter(torch.zeros(32, 2), requires_grad=False)
        made["linear"].register_parameter("scale", scale)
        made = made.to("meta")
        kept = {"linear.bias", "linear.scale"}
        assert plan(made, None, None, None, 0) == Plan(KeepMode.NO, True, small=frozenset(kept))
        assert plan(made, KeepMode.NO, None, None, 0).small == frozenset()

    def test_device_memory_is_not_weighed_against_the_hosts(self) -> None:
        made = Mlp(16, 1).to("meta")
        assert plan(made, KeepMode.HBM, None, self.left(0), 0) == Plan(KeepMode.HBM, True)

    def test_host_copies_of_an_accelerators_weights_need_their_size_once(self) -> None:
        made = Mlp(16, 1).to("meta")
        nbytes = sum(parameter.nbytes for parameter in made.parameters())
        enough = self.left(nbytes + HEADROOM_BYTES)
        assert plan(made, KeepMode.DRAM, None, enough, 0) == Plan(KeepMode.DRAM, True)
        refused = plan(made, KeepMode.DRAM, None, self.left(enough.bytes - 1), 0)
        assert (refused.mode, refused.may_share) == (KeepMode.NO, False)

    @pytest.mark.parametrize("setting", [None, KeepMode.DRAM, KeepMode.HBM])
    def test_a_cpu_needs_weights_and_originals_and_what_is_reserved(
        self, setting: KeepMode | None
    ) -> None:
        made = Mlp(16, 2)
        nbytes = sum(parameter.nbytes for parameter in made.parameters())
        enough = self.left(2 * nbytes + HEADROOM_BYTES + 1000)
        assert plan(made, setting, None, enough, 1000).mode in (KeepMode.DRAM, KeepMode.HBM)
        refused = plan(made, setting, None, enough, 1001)
        assert (refused.mode, refused.may_share) == (KeepMode.NO, False)
        assert "originals" in refused.reason

    def test_only_what_is_selected_is_needed_twice(self) -> None:
        made = Mlp(16, 2)
        nbytes = sum(parameter.nbytes for parameter in made.parameters())
        enough = self.left(nbytes + 2 * 16 * 16 * 4 + HEADROOM_BYTES)
        assert plan(made, None, ["layers."], enough, 0).mode is KeepMode.DRAM
        assert plan(made, None, None, enough, 0).mode is KeepMode.NO


def test_refusal_says_both_numbers_and_who_sets_the_bound() -> None:
    left = Available(3 * 2**29, "memory.max of /pod")
    assert fits(2**29, left, 2**30) is None
    assert fits(2**29, None, 2**40) is None
    assert fits(2**29 + 1, left, 2**30) == (
        "originals kept for peers need 512.0 MiB beside 1.00 GiB for the server, "
        "1.50 GiB in all, and memory.max of /pod leaves 1.50 GiB: "
        "give it more memory, or set INT8_CACHE to no"
    )


@pytest.fixture(scope="module")
def measured() -> dict[tuple[str, int], tuple[int, int]]:
    """By way and megabytes: a process's anonymous memory at the end, and the cost it told."""
    cases = [(way, size) for way in ("auto", "dram", "no") for size in MEGABYTES]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    printed = subprocess.run(
        [
            *(sys.executable, "-m", "tests.loader.originals_process"),
            *(f"{way}:{size}" for way, size in cases),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=4 * HANG_S,
    ).stdout.splitlines()
    rows = (tuple(map(int, line.split())) for line in printed)
    return {case: (memory, cost) for case, (memory, cost) in zip(cases, rows, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("size", MEGABYTES)
class TestResidentMemory:
    """Against what the kernel counts."""

    def test_what_is_told_is_what_the_process_holds(
        self, measured: dict[tuple[str, int], tuple[int, int]], size: int
    ) -> None:
        memory, cost = measured["dram", size]
        assert cost == pytest.approx(memory - measured["auto", size][0], rel=0.1)
        assert cost > 0.8 * size * 2**20

    def test_one_that_keeps_nothing_needs_what_auto_needs(
        self, measured: dict[tuple[str, int], tuple[int, int]], size: int
    ) -> None:
        memory, cost = measured["no", size]
        assert cost == 0
        assert memory - measured["auto", size][0] < 0.1 * size * 2**20
