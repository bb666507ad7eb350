"""What is heavy is loaded late. Which part may import which: `tests/test_layers.py`."""

from __future__ import annotations

import subprocess
import sys

from tests.forked import start_loader


def test_importing_the_package_loads_neither_torch_nor_vllm() -> None:
    code = "import netloader, netloader.engine.plugin, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert "netloader.engine.plugin" in loaded
    assert not {"torch", "vllm", "zmq"} & {*loaded}


def test_everything_below_the_loader_works_without_vllm() -> None:
    """Processes are forked from one that has imported the worker, the replica and the source."""
    with start_loader("tests.loader.imported") as process:
        loaded = process.stdout.read().split()
    assert {
        "netloader.worker.process",
        "netloader.replica.pull",
        "netloader.source.service",
    } <= {*loaded}
    assert "vllm" not in loaded
