"""Processes that load and post-process a model in one way, and print what memory that took.

    python -m tests.loader.originals_process WAY:MEGABYTES ...

`auto` keeps nothing and knows nothing of peers; `dram` and `no` are values of `INT8_CACHE`. Each
way runs in a process of its own and prints one line: anonymous memory in bytes, and the cost that
was told. Every linear weight is replaced by a packed copy, as vLLM does on CPUs with AVX-512.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from netloader.errors import ManifestError
from netloader.system import memory
from netloader.terms import KeepMode
from netloader.weights.capture import capture
from netloader.weights.coalesce import arrange
from netloader.weights.retain import keep, plan, settle

WIDTH = 1024
"""Makes linear weights of 4 MiB: small enough to be packed into chunks beside the embedding."""


class Model(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.empty(256, WIDTH), requires_grad=False)
        self.norm = nn.Parameter(torch.empty(WIDTH), requires_grad=False)
        self.layers = nn.ModuleList(nn.Module() for _ in range(layers))
        self.packed: list[torch.Tensor] = []
        for layer in self.layers:
            layer.weight = nn.Parameter(torch.empty(WIDTH, WIDTH), requires_grad=False)

    def fill(self) -> None:
        for number, parameter in enumerate(self.parameters()):
            parameter.data.fill_(number + 1)

    def post_process(self) -> None:
        for layer in self.layers:
            self.packed.append(layer.weight.detach().clone())  # type: ignore[operator, union-attr]
            layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def measure(way: str, megabytes: int) -> tuple[int, int]:
    model = Model(megabytes // 4)
    if way == "auto":
        model.fill()
        model.post_process()
        return _anonymous(), 0
    planned = plan(model, KeepMode(way), None, None, 0)
    if planned.may_share:
        arrange(model)
    model.fill()
    kept = keep(capture(model), planned.mode, None)
    model.post_process()
    try:
        originals = settle(kept, model)
    except ManifestError:
        del kept
        return _anonymous(), 0
    return _anonymous(), originals.cost_bytes


def _anonymous() -> int:
    return memory.parse_meminfo(Path("/proc/self/status").read_text())["RssAnon"]


def main() -> None:
    for argument in sys.argv[1:]:
        way, _, megabytes = argument.partition(":")
        # All start from the same memory, and torch is imported once.
        child = os.fork()
        if child == 0:
            print(*measure(way, int(megabytes)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            sys.exit(f"{argument} ended with {status}")


if __name__ == "__main__":
    main()
