"""What is heavy is loaded late. Which part may import which: `tests/test_layers.py`."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_loads_neither_torch_nor_vllm() -> None:
    assert loaded_by("import netloader, netloader.engine.plugin") == set()


def test_everything_below_the_loader_works_without_vllm() -> None:
    assert "vllm" not in loaded_by(
        "import netloader.worker.process, netloader.replica.pull, netloader.source.service"
    )


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    show = "import sys; print(*(name for name in ('torch', 'vllm', 'zmq') if name in sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", f"{code}; {show}"],
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
    )
