"""One end of the pulls in `test_big.py`: 200 tensors of a given size together, on an NPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from netloader.weights.capture import Weights, capture
from tests.ascend.commands import arguments, serve
from tests.ascend.staged_end import End
from tests.loader.support import CHUNK, descriptors, threads

TENSORS = 200


class BigEnd(End):
    """Its model has 200 tensors."""

    def __init__(self, megabytes: int) -> None:
        super().__init__("npu")
        self._nbytes = (megabytes << 20) // TENSORS

    def pull_often(self, endpoint: str, times: int) -> dict[str, Any]:
        """What the process holds before the last pulls and after them."""
        self.pull(endpoint, ["hccl"])  # What a process needs once.
        before = self.held()
        for _ in range(times):
            self.pull(endpoint, ["hccl"])
        return {"before": before, "after": self.held()}

    def held(self) -> dict[str, int]:
        torch.npu.empty_cache()
        free, _ = torch.npu.mem_get_info(0)
        return {"threads": threads(), "descriptors": descriptors(), "free": free}

    def _weights(self, seed: int | None) -> Weights:
        model = nn.Module()
        generator = torch.Generator().manual_seed(seed or 0)
        for number in range(TENSORS):
            data = torch.zeros(self._nbytes, dtype=torch.uint8)
            if seed is not None:
                data.random_(0, 256, generator=generator)
            model.register_buffer(f"tensor_{number}", data.to("npu:0"))
        return capture(model, chunk_bytes=max(CHUNK, self._nbytes))


def main() -> None:
    channel, given = arguments()
    torch.npu.set_device(0)
    channel.say(value=True)
    serve(channel, BigEnd(**given).run)


if __name__ == "__main__":
    main()
