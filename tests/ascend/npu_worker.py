"""An NPUWorker of the unmodified vllm-ascend, moved by a test command by command."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch
import torch_npu

from tests.ascend.commands import arguments, serve
from tests.ascend.rank import sha256


class Worker:
    """The commands. It is made as vLLM's executor makes one."""

    def __init__(
        self,
        model: str,
        load_format: str,
        port: int,
        rank: int = 0,
        ranks: int = 1,
        extra: dict[str, Any] | None = None,
    ) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.plugins import load_general_plugins
        from vllm.v1.worker.worker_base import WorkerWrapperBase

        load_general_plugins()
        engine = EngineArgs(
            model=model,
            load_format=load_format,
            model_loader_extra_config=extra or {},
            tensor_parallel_size=ranks,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=4,
            gpu_memory_utilization=0.02,
        )
        config = engine.create_engine_config()
        self.wrapper = WorkerWrapperBase(rpc_rank=rank)
        given = {
            "vllm_config": config,
            "local_rank": rank,
            "rank": rank,
            "distributed_init_method": f"tcp://127.0.0.1:{port}",
            "is_driver_worker": rank == 0,
        }
        self.wrapper.init_worker([given for _ in range(ranks)])

    def run(self, do: str, /, **arguments: Any) -> Any:
        return getattr(self, do)(**arguments)

    def kind(self) -> str:
        """The classes that are under test, as they name themselves."""
        worker = type(self.wrapper.worker)
        return f"{worker.__module__}.{worker.__qualname__}"

    def init_device(self) -> None:
        self.wrapper.init_device()

    def load_model(self) -> None:
        self.wrapper.load_model()

    def model(self) -> torch.nn.Module:
        model: torch.nn.Module = self.wrapper.worker.model_runner.get_model()
        return model

    def digests(self) -> dict[str, str]:
        """SHA-256 of every parameter's bytes as rows and columns, by name."""
        return {name: sha256(tensor.cpu()) for name, tensor in self.model().named_parameters()}

    def attributes(self) -> dict[str, str]:
        """SHA-256 of every tensor that a module holds beside parameters and buffers, by name."""
        return {
            f"{path}.{name}": sha256(value.cpu().contiguous())
            for path, module in self.model().named_modules()
            for name, value in vars(module).items()
            if isinstance(value, torch.Tensor)
        }

    def formats(self) -> dict[str, int]:
        """How many parameters lie in memory in which format."""
        kinds = [torch_npu.get_npu_format(tensor) for tensor in self.model().parameters()]
        return Counter(kind.name for kind in kinds)

    def profile(self) -> float:
        """Run the model once on made-up tokens; the sum of what comes out."""
        return float(self._run().float().abs().sum())

    def answer(self) -> dict[str, Any]:
        """What such a run says: SHA-256 of its logits, and the likeliest tokens."""
        logits = self.model().compute_logits(self._run()).cpu()
        assert bool(torch.isfinite(logits).all()), "an answer has no infinite logits"
        return {"logits": sha256(logits), "tokens": logits.float().argmax(-1).tolist()}

    def _run(self) -> torch.Tensor:
        from vllm_ascend.worker.model_runner_v1 import NPUModelRunner

        hidden: torch.Tensor
        hidden, _ = NPUModelRunner._dummy_run(self.wrapper.worker.model_runner, 16)
        return hidden


def main() -> None:
    channel, given = arguments()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    serve(channel, Worker(**given).run)


if __name__ == "__main__":
    main()
