"""What is kept, decided before the weights are loaded."""

from __future__ import annotations

import pytest
import torch
from tests.loader.weights.retained_models import Mlp, model
from torch import nn

from netloader.system.memory import Available
from netloader.terms import KeepMode
from netloader.weights.retain import HEADROOM_BYTES, Plan, fits, plan


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
