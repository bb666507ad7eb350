"""NPUWorkers of vllm-ascend that load by our loader, and what they say of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ascend.processes import START_S, Process
from tests.e2e.servers import free_port

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
        deadline = time.monotonic() + READY_S
        while not self._report.exists():
            assert self.process.is_alive() and time.monotonic() < deadline, self.process.tail()
            time.sleep(0.1)
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
    cache: Path,
    model: Path,
    *,
    env: Mapping[str, str],
    source: str | None = None,
    extra: Mapping[str, Any] | None = None,
    **engine: Any,
) -> Iterator[OurWorker]:
    """A worker of that name. `source` is the endpoint it pulls from, `extra` further settings of
    our loader, `engine` further arguments of `npu_worker`."""
    port = free_port()
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
    environment = {"VLLM_CACHE_ROOT": str(cache)} | dict(env)
    with Process("tests.ascend.npu_worker", home, name, env=environment, **arguments) as process:
        process.say(do="init_device")
        yield OurWorker(process, home / f"{name}-0.json", f"127.0.0.1:{port}")
