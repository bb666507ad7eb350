"""Experts over data-parallel ranks: every rank ends up with the experts that storage gives it.

vLLM shards experts over data-parallel ranks with expert parallelism (whole experts) and without it
(a part of each). Its CPU build loads such servers, but cannot exchange tokens between the ranks: no
completion is asked for here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.e2e.models import MIXTRAL_EXPERTS, make_mixtral
from tests.e2e.servers import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2000)]

RANKS = (0, 1)
_PATIENCE_S = 900.0
"""Six processes a server, which share one core with others."""


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mixtral(tmp_path_factory.mktemp("mixtral"), seed=1)


@pytest.mark.parametrize("expert_parallel", [False, True], ids=["split-experts", "whole-experts"])
def test_each_data_parallel_rank_pulls_its_own_experts(
    mixtral: Path, home: Path, expert_parallel: bool
) -> None:
    flags = ["--enable-expert-parallel"] if expert_parallel else []
    kind = "whole" if expert_parallel else "split"
    with (
        Server(f"{kind}-1", mixtral, home, dp=2, flags=flags, report=True, forked=True) as first,
        Server(
            f"{kind}-2", mixtral, home, dp=2, flags=flags, report=True, start=False, forked=True
        ) as second,
    ):
        first.wait_ready(_PATIENCE_S)
        second.start().wait_ready(_PATIENCE_S)

        for rank in RANKS:
            source, replica = first.report(rank), second.report(rank)
            assert source["origin"] == "storage"
            assert replica["origin"] == "peers"
            assert second.delivered(rank) == {str(source["endpoint"]): source["nbytes"]}
            assert replica["tensors"] == source["tensors"] != {}
            expected = experts_of(mixtral, rank, whole=expert_parallel)
            assert expected.items() <= second.sha256(rank).items()
        assert first.sha256(0) != first.sha256(1)


def experts_of(folder: Path, rank: int, *, whole: bool) -> dict[str, str]:
    """SHA-256 of the experts that one of two ranks must hold, cut out of the checkpoint by hand."""
    half = MIXTRAL_EXPERTS // 2
    mine = range(rank * half, (rank + 1) * half) if whole else range(MIXTRAL_EXPERTS)
    found: dict[str, str] = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = filter(lambda name: ".experts." in name, file.keys())
        for prefix in sorted({name.partition(".experts.")[0] for name in names}):

            def read(expert: int, matrix: str, dim: int, prefix: str = prefix) -> torch.Tensor:
                tensor = file.get_tensor(f"{prefix}.experts.{expert}.{matrix}.weight")
                return tensor if whole else tensor.chunk(2, dim)[rank]

            gate_up = [torch.cat([read(e, "w1", 0), read(e, "w3", 0)]) for e in mine]
            down = [read(e, "w2", 1) for e in mine]
            for name, parts in (("w13_weight", gate_up), ("w2_weight", down)):
                data = torch.stack(parts).contiguous().view(-1).view(torch.uint8)
                path = f"{prefix}.experts.routed_experts.{name}"
                found[path] = hashlib.sha256(data.numpy()).hexdigest()
    return found
