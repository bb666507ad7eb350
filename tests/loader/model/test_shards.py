"""What counts as a module's shard, on modules that keep it as vLLM's and its plugins' do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from netloader.model.shards import MAX_PARTS, MAX_WORDS, held, shards


@dataclass
class MoeParallelConfig:
    tp_size: int = 1
    tp_rank: int = 0
    dp_size: int = 1
    dp_rank: int = 0
    sp_size: int = 1
    use_ep: bool = False
    all2all_backend: str = "allgather"
    enable_eplb: bool = False


@dataclass
class MoeConfig:
    num_experts: int = 8
    max_num_tokens: int = 1024
    is_lora_enabled: bool = False
    max_capture_size: int = 0
    moe_backend: str = "auto"
    moe_parallel_config: MoeParallelConfig = field(default_factory=MoeParallelConfig)


@dataclass(frozen=True, slots=True)
class ShardIndices:
    org_vocab_start_index: int
    org_vocab_end_index: int


class FakeGroup:
    """Has what vLLM's group coordinators have."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank_in_group = rank
        self.world_size = size


class Linear(nn.Module):
    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, 2), requires_grad=False)
        for name, value in attributes.items():
            setattr(self, name, value)


class Experts(nn.Module):
    def __init__(self, config: MoeConfig, expert_map: torch.Tensor | None = None) -> None:
        super().__init__()
        self.moe_config = config
        self.register_buffer("_expert_map", expert_map, persistent=False)


def model(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


def marked(**marks: object) -> nn.Module:
    """A module whose parameter has attributes, as vLLM's have."""
    module = Linear()
    for name, value in marks.items():
        setattr(module.weight, name, value)
    return module


def over_dp(rank: int) -> nn.Module:
    return Experts(MoeConfig(moe_parallel_config=MoeParallelConfig(dp_size=2, dp_rank=rank)))


SHAPES_WEIGHTS: dict[str, tuple[nn.Module, nn.Module]] = {
    "rank": (Linear(tp_size=2, tp_rank=0), Linear(tp_size=2, tp_rank=1)),
    "size": (Linear(tp_size=2, tp_rank=0), Linear(tp_size=4, tp_rank=0)),
    "rank over data parallelism in a nested config": (over_dp(0), over_dp(1)),
    "group of any name": (Linear(comm=FakeGroup(0, 2)), Linear(comm=FakeGroup(1, 2))),
    "rank of a parameter": (marked(tp_rank=0), marked(tp_rank=1)),
    "bounds": (Linear(start_layer=0, end_layer=4), Linear(start_layer=4, end_layer=8)),
    "bounds in an object with slots": (
        Linear(shard_indices=ShardIndices(0, 8)),
        Linear(shard_indices=ShardIndices(8, 16)),
    ),
    "sizes in a list": (
        Linear(output_partition_sizes=[4, 2, 2]),
        Linear(output_partition_sizes=[4, 4]),
    ),
    "experts in a dict": (Linear(expert_slots={0: [1, 2]}), Linear(expert_slots={0: [2, 1]})),
    "a set of experts": (Linear(local_experts={1, 2}), Linear(local_experts={1, 3})),
    "plain object": (
        Linear(moe_layout=SimpleNamespace(ep_rank=0)),
        Linear(moe_layout=SimpleNamespace(ep_rank=1)),
    ),
    "expert map": (
        Experts(MoeConfig(), torch.tensor([0, 1, -1, -1])),
        Experts(MoeConfig(), torch.tensor([-1, -1, 0, 1])),
    ),
    "expert map as an attribute": (
        Linear(log2phy=torch.tensor([0, 1])),
        Linear(log2phy=torch.tensor([1, 0])),
    ),
    "class": (Linear(), Experts(MoeConfig())),
    "data parallelism in full": (Linear(data_parallel_rank=0), Linear(data_parallel_rank=1)),
    "replicas of heads": (Linear(num_kv_head_replicas=1), Linear(num_kv_head_replicas=2)),
    "padding as a stride": (
        Linear(tp_shard_with_padding=False),
        Linear(tp_shard_with_padding=True),
    ),
}


@pytest.mark.parametrize(("one", "other"), SHAPES_WEIGHTS.values(), ids=SHAPES_WEIGHTS)
def test_what_shapes_weights_tells_ranks_apart(one: nn.Module, other: nn.Module) -> None:
    assert shards(model(one)).digest != shards(model(other)).digest
    assert shards(model(one)).digest == shards(model(one)).digest


def with_moe(**values: object) -> nn.Module:
    return Experts(MoeConfig(**values))  # type: ignore[arg-type]


def with_parallel(**values: object) -> nn.Module:
    return with_moe(moe_parallel_config=MoeParallelConfig(**values))  # type: ignore[arg-type]


SHAPES_NOTHING: dict[str, tuple[nn.Module, nn.Module]] = {
    "most tokens": (with_moe(max_num_tokens=1), with_moe(max_num_tokens=2)),
    "LoRA": (with_moe(is_lora_enabled=True), with_moe()),
    "graphs": (with_moe(max_capture_size=8), with_moe()),
    "kernels": (with_moe(moe_backend="triton"), with_moe()),
    "exchange of tokens": (with_parallel(all2all_backend="deepep"), with_parallel()),
    "sequence parallelism": (with_parallel(sp_size=2), with_parallel()),
    "rank on the machine": (Linear(local_rank=0), Linear(local_rank=1)),
    "KV cache": (Linear(kv_cache_dtype="fp8", block_size=16), Linear(kv_cache_dtype="auto")),
    "length": (Linear(max_model_len=256), Linear(max_model_len=512)),
    "lookahead": (Linear(num_lookahead_tokens=2), Linear()),
    "token ids": (Linear(image_start_token_id=1), Linear(image_start_token_id=2)),
    "ranks of low-rank adapters": (Linear(max_lora_rank=8), Linear(max_lora_rank=16)),
    "function": (Linear(partition_fn=print), Linear(partition_fn=repr)),
    "place of an object in memory": (Linear(moe_kernel=object()), Linear(moe_kernel=object())),
    "order of a set": (Linear(local_experts={8, 0}), Linear(local_experts={0, 8})),
}


@pytest.mark.parametrize(("one", "other"), SHAPES_NOTHING.values(), ids=SHAPES_NOTHING)
def test_what_shapes_no_weights_does_not(one: nn.Module, other: nn.Module) -> None:
    assert shards(model(one)).digest == shards(model(other)).digest


def test_configuration_of_the_checkpoint_is_not_a_shard() -> None:
    transformers = pytest.importorskip("transformers")

    def of(start: int) -> nn.Module:
        return Linear(moe_config=transformers.PretrainedConfig(start_index=start))

    assert shards(model(of(1))).digest == shards(model(of(2))).digest


def test_contents_of_parameters_are_not_looked_at() -> None:
    one, other = Linear(), Linear()
    one.expert_map = nn.Parameter(torch.tensor([1.0]), requires_grad=False)
    other.expert_map = nn.Parameter(torch.tensor([2.0]), requires_grad=False)

    assert shards(model(one)).digest == shards(model(other)).digest


def test_a_map_that_has_no_contents_yet_counts_by_shape() -> None:
    def of(experts: int) -> nn.Module:
        return Experts(MoeConfig(), torch.empty(experts, dtype=torch.int32, device="meta"))

    assert shards(model(of(4))).digest == shards(model(of(4))).digest
    assert shards(model(of(4))).digest != shards(model(of(8))).digest


def test_place_in_the_model_counts() -> None:
    first, second = Linear(tp_rank=0), Linear(tp_rank=1)

    assert shards(model(first, second)).digest != shards(model(second, first)).digest


def test_objects_that_point_at_each_other_are_read_once() -> None:
    one, other = SimpleNamespace(ep_rank=1), SimpleNamespace(ep_rank=2)
    one.expert_next, other.expert_next = other, one

    found = held(Linear(expert_config=one))

    assert found["expert_config.ep_rank"] == "1"
    assert found["expert_config.expert_next.ep_rank"] == "2"
    assert max(path.count(".") for path in found) == 3


def test_words_say_what_divides_by_class() -> None:
    plain, cut = Linear(tp_size=1, tp_rank=0), Linear(tp_size=4, tp_rank=3)
    experts = Experts(
        MoeConfig(moe_parallel_config=MoeParallelConfig(tp_size=4, tp_rank=3, dp_size=2, dp_rank=1))
    )

    read = shards(model(plain, cut, cut, experts, nn.ReLU()))

    assert read.parts == {"Linear": "whole | tp 3/4", "Experts": "tp 3/4, dp 1/2"}
    assert read.groups == {"tp", "dp"}


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ({"data_parallel_rank": 0}, {"dp"}),
        ({"expert_parallel_size": 2}, {"ep"}),
        ({"ep_group": FakeGroup(0, 2)}, {"ep"}),
        ({"pcp_rank": 0, "tp_size": 2}, {"pcp", "tp"}),
        ({"use_pcp": False, "start_layer": 0}, set()),
    ],
)
def test_groups_in_which_modules_know_a_rank_are_named(
    attributes: dict[str, object], groups: set[str]
) -> None:
    assert shards(model(Linear(**attributes))).groups == groups


def test_words_are_bounded_and_still_differ() -> None:
    def many(last: int) -> nn.Module:
        kinds: list[Callable[[], nn.Module]] = [
            type(f"Layer{number}", (Linear,), {}) for number in range(MAX_PARTS + 20)
        ]
        layers = [kind() for kind in kinds]
        for number, layer in enumerate(layers):
            layer.tp_size, layer.tp_rank = 1000, number  # type: ignore[assignment]
        layers += [Linear(tp_size=1000, tp_rank=number) for number in (*range(100), last)]
        return model(*layers)

    one, other = shards(many(200)), shards(many(201))

    assert len(one.parts) == MAX_PARTS
    assert all(len(text) <= MAX_WORDS for text in one.parts.values())
    assert one.parts["others"] != other.parts["others"]
