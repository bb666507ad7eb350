"""vLLM plugin: stands in for the one Triton kernel of a dense decoder, since there is no Triton."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import torch

from fakecann.fallback import run

_MODULES = ("vllm.v1.worker.block_table", "vllm_ascend.worker.block_table")
"""Where the kernel is defined, and who took it from there by its name."""


class SlotMapping:
    """`_compute_slot_mapping_kernel[grid](...)`: where in the cache each token's key goes."""

    def __getitem__(self, grid: tuple[int, ...]) -> SlotMapping:
        return self

    def __call__(
        self,
        num_tokens: int,
        max_num_tokens: int,
        query_start_loc: torch.Tensor,
        positions: torch.Tensor,
        block_table: torch.Tensor,
        block_table_stride: int,
        block_size: int,
        slot_mapping: torch.Tensor,
        *,
        TOTAL_CP_WORLD_SIZE: int,
        PAD_ID: int,
        **_: Any,
    ) -> None:
        if TOTAL_CP_WORLD_SIZE != 1:
            raise NotImplementedError("fakecann: slot mapping with context parallelism")

        def compute(
            starts: torch.Tensor, places: torch.Tensor, table: torch.Tensor, slots: torch.Tensor
        ) -> None:
            slots[num_tokens:max_num_tokens] = PAD_ID
            bounds = starts.tolist()
            for request, (first, end) in enumerate(pairwise(bounds)):
                place = places[first:end].long()
                blocks = table[request].long()[place // block_size]
                slots[first:end] = blocks * block_size + place % block_size

        arguments = (query_start_loc, positions, block_table, slot_mapping)
        run("triton::_compute_slot_mapping_kernel", compute, arguments, {})


def install() -> None:
    """Replace the kernel where vLLM and vllm-ascend look for it.

    Also register the operators, for a process that turned torch's autoload off.
    """
    import fakecann

    fakecann.install()
    import vllm.v1.worker.block_table  # noqa: F401

    for name in _MODULES:
        if name in sys.modules:
            vars(sys.modules[name])["_compute_slot_mapping_kernel"] = SlotMapping()
