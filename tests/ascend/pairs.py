"""Two ranks of a ProcessGroupHCCL, each in a process, and what their bytes should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.ascend.processes import START_S, Process
from tests.ascend.rank import pattern, sha256
from tests.free_ports import free_port

DTYPES = ["uint8", "int8", "bool", "int16", "int32", "int64", "float16", "bfloat16", "float32"]
DTYPES += ["float64", "float8_e4m3fn"]

GROUP_S = 60.0
"""How long an operation of a group may take, to torch_npu."""


def digest(count: int, dtype: str, seed: int) -> str:
    """Of the bytes that `fill` with these arguments makes."""
    return sha256(pattern(count, getattr(torch, dtype), seed))


class Pair:
    """Rank 0 and rank 1."""

    def __init__(self, ranks: Sequence[Process]) -> None:
        self._ranks = ranks

    def __getitem__(self, rank: int) -> Process:
        return self._ranks[rank]

    def pattern(self, count: int, dtype: str, seed: int) -> torch.Tensor:
        return pattern(count, getattr(torch, dtype), seed)

    def everywhere(self, do: str, arguments: Sequence[Mapping[str, Any]]) -> None:
        """A command for both at once, since either may wait for the other in it."""
        for rank, given in zip(self._ranks, arguments, strict=True):
            rank.say(do=do, **given)
        for rank in self._ranks:
            rank.answer()

    def begin(
        self,
        source: int,
        replica: int,
        *,
        count: int,
        dtype: str,
        seed: int,
        dies: int | None = None,
    ) -> None:
        """Fill `out` at the source, begin to send it and to receive it as `in`.

        The rank that `dies` in it may not even come to say that it began.
        """
        self[source].ask("fill", name="out", count=count, dtype=dtype, seed=seed)
        self[replica].ask("fill", name="in", count=count, dtype=dtype, seed=seed + 1)
        # The first operation of all makes the communicator: it waits for the other side's.
        self[source].say(do="send", name="out", to=replica)
        self[replica].say(do="receive", name="in", source=source)
        for rank in {source, replica} - {dies}:
            self[rank].answer()

    def transfer(self, source: int, replica: int, *, count: int, dtype: str, seed: int) -> None:
        """`begin`, and wait for the end."""
        self.begin(source, replica, count=count, dtype=dtype, seed=seed)
        self.wait()

    def wait(self) -> None:
        self.everywhere("wait", [{}, {}])


@contextmanager
def started(
    home: Path,
    *,
    env: Mapping[str, str] | None = None,
    source_env: Mapping[str, str] | None = None,
    replica_env: Mapping[str, str] | None = None,
) -> Iterator[Pair]:
    """Both ranks, ready. Rank 0 is called the source, rank 1 the replica."""
    port = free_port()
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                Process(
                    "tests.ascend.rank",
                    home,
                    name,
                    env={**(env or {}), **(own or {})},
                    port=port,
                    rank=rank,
                    ranks=2,
                    timeout_s=GROUP_S,
                )
            )
            for rank, (name, own) in enumerate([("source", source_env), ("replica", replica_env)])
        ]
        for rank in ranks:
            rank.ask("pid", timeout_s=START_S)
        yield Pair(ranks)
