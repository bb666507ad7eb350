"""Faults for end-to-end tests, brought into a real `vllm serve` as one more vLLM plugin.

Put this folder on `PYTHONPATH` and set `FAULT_KILL_AFTER_SENDS=n`: the worker then ends by SIGKILL
when it starts to send its n-th chunk, counted from when the file `FAULT_ARMED_BY` exists. Nothing
in the product knows of this.
"""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import torch

from netloader.transport.base import Pending
from netloader.transport.tcp import TcpGroup


def install() -> None:
    """vLLM's plugin entry; called in every process of an engine."""
    limit = int(os.environ.get("FAULT_KILL_AFTER_SENDS", "0"))
    if limit <= 0:
        return
    armed_by = Path(os.environ["FAULT_ARMED_BY"])
    send = TcpGroup.send
    count = itertools.count(1)

    def send_or_die(self: TcpGroup, data: torch.Tensor, tag: int) -> Pending:
        pending = send(self, data, tag)
        if armed_by.exists() and next(count) >= limit:
            os.kill(os.getpid(), signal.SIGKILL)
        return pending

    TcpGroup.send = send_or_die  # type: ignore[method-assign]
