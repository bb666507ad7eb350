"""Processes with vLLM, and programs beside them: what they find, and a start without the imports.

`start_vllm` forks them from one process that has imported vLLM, so each costs 14 s of a core less.
That is no evidence for what the imports do: `test_serve.py` has a server that a shell would start.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.forked import ROOT, ForkedProcess, Nursery

_IMPORTED = (
    "vllm.entrypoints.cli.serve",
    "vllm.model_executor.model_loader",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
    "transformers.models.llama",
)
"""What a server imports, as far as that depends on no setting. Nothing of ours is among it: vLLM
finds our plugin in each process by itself."""


def isolated_environment(home: Path) -> dict[str, str]:
    """An environment in which vLLM writes below `home` only and asks no network for anything."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("NETLOADER_", "VLLM_")) and key != "PYTHONPATH"
    }
    return kept | {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(home / "vllm"),
        "VLLM_CONFIG_ROOT": str(home / "vllm-config"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@functools.cache
def _nursery() -> Nursery:
    """One for the whole test run."""
    return Nursery(_IMPORTED, isolated_environment(Path(_nursery_home().name)))


@functools.cache
def _nursery_home() -> tempfile.TemporaryDirectory[str]:
    """Stays empty. The Hub's settings, which imports read, name it."""
    return tempfile.TemporaryDirectory(prefix="netloader-e2e-nursery-")


def start_vllm(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path = ROOT,
    output: IO[bytes] | None = None,
    stderr: IO[bytes] | None = None,
) -> ForkedProcess:
    """Run a module that needs vLLM, as `python -m` does.

    `HF_HOME` and `HF_HUB_OFFLINE` of `env` come too late to count.
    """
    return _nursery().start(module, *arguments, env=env, cwd=cwd, output=output, stderr=stderr)


def run_vllm(
    module: str, *arguments: str, env: Mapping[str, str], timeout_s: float
) -> tuple[int, str]:
    """Run such a module to its end: its status, and all that it wrote."""
    with tempfile.TemporaryFile() as output:
        with start_vllm(module, *arguments, env=env, output=output) as process:
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        output.seek(0)
        return status, output.read().decode(errors="replace")
