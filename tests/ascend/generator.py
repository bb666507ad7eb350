"""vLLM's offline engine over the emulated NPU, moved by a test command by command."""

from __future__ import annotations

import os
from typing import Any

from tests.ascend.commands import arguments, serve


class Generator:
    """The commands."""

    def __init__(self, model: str) -> None:
        from vllm import LLM

        self.engine = LLM(
            model=model,
            dtype="bfloat16",
            enforce_eager=True,
            max_model_len=128,
            max_num_seqs=4,
            gpu_memory_utilization=0.02,
            num_gpu_blocks_override=32,
        )

    def run(self, do: str, /, **arguments: Any) -> Any:
        return getattr(self, do)(**arguments)

    def generate(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The `count` most likely tokens behind each prompt, one after the other."""
        from vllm import SamplingParams

        greedy = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        given = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = self.engine.generate(given, greedy)
        return [list(answer.outputs[0].token_ids) for answer in answers]


def main() -> None:
    channel, given = arguments()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    serve(channel, Generator(**given).run)


if __name__ == "__main__":
    main()
