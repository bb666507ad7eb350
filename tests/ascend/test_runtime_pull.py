"""A W8A8 model whose source keeps nothing of what it loaded: pulled as post-processing left it.

vllm-ascend's post-processing turns the weights, casts them to FRACTAL_NZ, adds tensors beside them
and replaces `deq_scale` by a product. So nobody can read back what was loaded.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ascend.ours import NZ, starting
from tests.ascend.quantised import compress
from tests.e2e.models import make_llama

pytestmark = pytest.mark.timeout(900)

KEEPS_NOTHING = {"INT8_CACHE": "no"}


def test_a_chain_of_workers_that_keep_nothing(tmp_path: Path) -> None:
    """The first reads storage, the second pulls from the first, the third from the second."""
    llama = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    model = compress(llama, tmp_path / "compressed")
    source: str | None = None
    workers = {}
    with ExitStack() as stack:
        # All begin at once: most of a start is imports.
        for name in ("first", "second", "third"):
            start = starting(tmp_path, name, model, env=NZ, source=source, extra=KEEPS_NOTHING)
            workers[name] = stack.enter_context(start)
            source = workers[name].endpoint
        seen = {}
        for name, worker in workers.items():
            report = worker.load()
            assert report["origin"] == ("storage" if name == "first" else "peers"), report
            assert (report["layout"], report["not_a_source"]) == ("runtime", "")
            assert {one["transport"] for one in report["deliveries"]} <= {"hccl"}
            seen[name] = {
                "travelled": report["tensors"],
                "parameters": worker.parameters(),
                "formats": worker.formats(),
                "attributes": worker.process.ask("attributes"),
                "answer": worker.process.ask("answer"),
            }
        assert "FRACTAL_NZ" in seen["first"]["formats"]
        assert any("deq_scale" in key for key in seen["first"]["parameters"])
        assert any("aclnn_input_scale" in key for key in seen["first"]["travelled"])
        for name in ("second", "third"):
            for what, found in seen[name].items():
                assert found == seen["first"][what], f"{what} of the {name}"
