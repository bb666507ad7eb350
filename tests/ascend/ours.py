"""NPUWorkers of vllm-ascend that load by our loader, and what they say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ascend.processes import START_S, Process
from tests.free_ports import free_port
from tests.loader.support import until

NZ = {"VLLM_ASCEND_ENABLE_NZ": "2"}
"""vllm-ascend converts the weights of linear layers after it loaded them."""
ND = {"VLLM_ASCEND_ENABLE_NZ": "0"}
"""It converts none."""

READY_S = 120.0
"""How long a worker may take to look through its weights, on a machine that is busy."""


class OurWorker:
    """A worker that was told to take its device."""

    def __init__(self, process: Process, report: Path, endpoint: str) -> None:
        self.process = process
        self.endpoint = endpoint
        """Where it serves, once it has a model."""
        self._report = report

    def load(self) -> dict[str, Any]:
        """Load the model, and return what the worker reports once it is a source or knows why
        not."""
        self.process.answer(START_S)
        self.process.ask("load_model", timeout_s=START_S)
        return self.report()

    def report(self) -> dict[str, Any]:
        """What the worker reports of a model that it has loaded."""
        until(lambda: self._report.exists() or not self.process.is_alive(), READY_S)
        assert self._report.exists(), self.process.tail()
        report: dict[str, Any] = json.loads(self._report.read_bytes())
        return report

    def parameters(self) -> dict[str, str]:
        """SHA-256 of every parameter's bytes as rows and columns, post-processed, by name."""
        digests: dict[str, str] = self.process.ask("digests")
        return digests

    def formats(self) -> dict[str, int]:
        """How many parameters lie in memory in which format."""
        found: dict[str, int] = self.process.ask("formats")
        return found


@contextmanager
def starting(
    home: Path,
    name: str,
    model: Path,
    *,
    env: Mapping[str, str],
    source: str | None = None,
    extra: Mapping[str, Any] | None = None,
    **engine: Any,
) -> Iterator[OurWorker]:
    """A worker of that name. `source` is the endpoint it pulls from, `extra` further settings of
    our loader, `engine` further arguments of `npu_worker`."""
    port, rank = free_port(), engine.get("rank", 0)
    settings: dict[str, Any] = {
        "MESH": False,
        "LISTEN_PORT": port,
        "REPORT_PREFIX": f"{home / name}-",
        "REPORT_TENSORS": True,
    }
    if source is not None:
        settings["SOURCE"] = [{"device_id": 0, "sources": [source]}]
    arguments = {
        "model": str(model),
        "load_format": "netloader",
        "port": free_port(),
        "extra": settings | dict(extra or {}),
        **engine,
    }
    with Process("tests.ascend.npu_worker", home, name, env=env, **arguments) as process:
        process.say(do="init_device")
        # Each rank of a model has the next port.
        yield OurWorker(process, home / f"{name}-{rank}.json", f"127.0.0.1:{port + rank}")
