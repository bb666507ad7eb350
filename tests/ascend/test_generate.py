"""A whole engine: attention over its cache, rotary embedding, sampling, against transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.ascend.processes import START_S, Process
from tests.ascend.test_worker import UPSTREAM
from tests.e2e.models import make_llama

pytestmark = pytest.mark.timeout(600)

NEAR = 0.05
"""How far a chosen token's logit may lie below the best: bfloat16 decides between close ones."""


def test_an_engine_chooses_the_tokens_that_transformers_would(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    prompts = [[5, 17, 200, 42, 9, 77, 140], [99, 3]]
    with Process(
        "tests.ascend.generator", tmp_path, "engine", env=UPSTREAM, model=str(model)
    ) as engine:
        answers = engine.ask("generate", prompts=prompts, count=12, timeout_s=START_S)
    ran = Path(os.environ["FAKECANN_RECORD"]).read_text().split()
    assert {"triton::_compute_slot_mapping_kernel", "npu::npu_fused_infer_attention_score"} < {*ran}
    reference = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer) == 12
        with torch.no_grad():
            logits = reference(torch.tensor([prompt + answer])).logits[0]
        for place, token in enumerate(answer, start=len(prompt) - 1):
            assert logits[place, token] >= logits[place].max() - NEAR
