"""A model in FRACTAL_NZ and in rows and columns: each pulled from the other."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ascend.llama import storage_digests
from tests.ascend.ours import ND, NZ, starting
from tests.e2e.models import make_llama

pytestmark = pytest.mark.timeout(900)


def test_formats_of_source_and_replica_are_their_own(tmp_path: Path) -> None:
    """A chain, each worker a source of the next. `test_quantised.py` has NZ on both sides."""
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    wanted = storage_digests(model)
    chain = {"first": NZ, "second": ND, "third": NZ}
    source: str | None = None
    workers = {}
    with ExitStack() as stack:
        # All begin at once: most of a start is imports.
        for name, env in chain.items():
            start = starting(tmp_path, name, model, env=env, source=source)
            workers[name] = stack.enter_context(start)
            source = workers[name].endpoint
        for name, env in chain.items():
            worker = workers[name]
            report = worker.load()
            assert report["not_a_source"] == ""
            assert report["origin"] == ("storage" if name == "first" else "peers"), report
            assert {one["transport"] for one in report["deliveries"]} <= {"hccl"}
            assert {key: report["tensors"][key] for key in wanted} == wanted, name
            assert worker.parameters() == wanted, name
            assert ("FRACTAL_NZ" in worker.formats()) == (env == NZ)
            converted = re.search(r"([0-9]+) tensors are converted", worker.process.output())
            assert (converted is not None) == (env == NZ)
