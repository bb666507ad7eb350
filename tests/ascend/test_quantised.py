"""A quantised checkpoint under a real NPUWorker: W8A8, W8A8_DYNAMIC and W4A8_DYNAMIC layers.

vllm-ascend turns their weights, casts them to FRACTAL_NZ and drops what it loaded. Of W4A8 it also
replaces the scales by products, from which nothing can be read back. A source keeps those, unless
it is told to keep nothing. Then it serves what is left.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ascend.ours import NZ, OurWorker, starting
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
        # It keeps nothing from which the scales could be read back, so it serves what they became.
        assert (report["not_a_source"], report["layout"]) == ("", "runtime")


@pytest.mark.soak
def test_what_post_processing_left_is_pulled_with_equal_bytes_and_formats(tmp_path: Path) -> None:
    llama = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    model = quantise(llama, tmp_path / "quantised")
    cache, keeps_nothing = tmp_path / "vllm", {"INT8_CACHE": "no"}
    with ExitStack() as stack:
        workers: list[OurWorker] = []
        for name in ("source", "replica", "second"):
            start = starting(
                tmp_path,
                name,
                cache,
                model,
                env=NZ,
                source=workers[-1].endpoint if workers else None,
                extra=keeps_nothing,
            )
            workers.append(stack.enter_context(start))
            report = workers[-1].load()
            assert (report["layout"], report["not_a_source"]) == ("runtime", ""), report
            assert report["origin"] == ("peers" if len(workers) > 1 else "storage"), report
        source = workers[0]
        for one in workers[1:]:
            assert one.parameters() == source.parameters()
            assert one.formats() == source.formats()
            assert one.process.ask("attributes") == source.process.ask("attributes")
