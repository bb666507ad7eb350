"""Our loader under NPUWorkers: two ranks of a model, pulled over HCCL, equal to storage by bytes.

One rank's pulls, of both formats, are in `test_formats_pull.py`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ascend.llama import storage_digests
from tests.ascend.ours import ND, OurWorker, starting
from tests.ascend.processes import START_S
from tests.e2e.models import make_llama
from tests.free_ports import free_port

pytestmark = pytest.mark.timeout(900)

RANKS = 2


def test_each_rank_pulls_its_part(tmp_path: Path) -> None:
    model = make_llama(tmp_path / "llama", seed=1, megabytes=24)
    with ExitStack() as stack:

        def group(name: str, sources: list[OurWorker] | None) -> list[OurWorker]:
            port = free_port()
            return [
                stack.enter_context(
                    starting(
                        tmp_path,
                        f"{name}{rank}",
                        model,
                        env=ND,
                        source=None,
                        extra={"SOURCE": listed(sources)} if sources else {},
                        rank=rank,
                        ranks=RANKS,
                        port=port,
                    )
                )
                for rank in range(RANKS)
            ]

        def listed(sources: list[OurWorker]) -> list[dict[str, object]]:
            return [
                {"device_id": rank, "sources": [one.endpoint]} for rank, one in enumerate(sources)
            ]

        sources = group("source", None)
        replicas = group("replica", sources)
        for origin, workers in (("storage", sources), ("peers", replicas)):
            for worker in workers:
                worker.process.answer(START_S)
                worker.process.say(do="load_model")
            for rank, worker in enumerate(workers):
                worker.process.answer(START_S)
                report = worker.report()
                assert report["origin"] == origin, report
                assert {one["transport"] for one in report["deliveries"]} <= {"hccl"}
                assert worker.parameters() == storage_digests(model, rank, RANKS)
