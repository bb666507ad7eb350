"""A quantised checkpoint under a real NPUWorker: W8A8, W8A8_DYNAMIC and W4A8_DYNAMIC layers.

vllm-ascend turns their weights, casts them to FRACTAL_NZ and drops what it loaded. Of W4A8 it also
replaces the scales by products, from which nothing can be read back. A source keeps those, unless
it is told to keep nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ascend.ours import NZ, starting
from tests.ascend.quantised import loaded_digests, quantise
from tests.e2e.models import make_llama

pytestmark = pytest.mark.timeout(900)


def test_a_quantised_model_is_pulled_with_equal_bytes(tmp_path: Path) -> None:
    llama = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    model = quantise(llama, tmp_path / "quantised")
    wanted = loaded_digests(model, llama)
    with ExitStack() as stack:
        source = stack.enter_context(starting(tmp_path, "source", model, env=NZ))
        keeps_nothing = {"INT8_CACHE": "no"}
        start = starting(
            tmp_path,
            "replica",
            model,
            env=NZ,
            source=source.endpoint,
            extra=keeps_nothing,
        )
        replica = stack.enter_context(start)
        report = source.load()
        assert (report["origin"], report["not_a_source"]) == ("storage", "")
        assert {name: report["tensors"][name] for name in wanted} == wanted
        processed = source.parameters()
        # Neither worker holds what it loaded any more, where it was quantised.
        changed = {name for name in wanted if processed[name] != wanted[name]}
        assert "model.layers.0.self_attn.qkv_proj.weight" in changed
        assert "model.layers.0.mlp.down_proj.weight_scale_second" in changed

        report = replica.load()
        assert report["origin"] == "peers", report
        assert replica.parameters() == processed
        assert replica.formats() == source.formats()
        assert replica.process.ask("attributes") == source.process.ask("attributes")
        assert "down_proj.weight_scale" in report["not_a_source"]
        assert "INT8_CACHE" in report["not_a_source"]
        # Nor can what post-processing made of W4A8 be served.
        assert "torch.int32 in FRACTAL_NZ" in report["not_a_source"]
