"""Registration with a real vLLM, in processes of their own: it is global there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.servers import isolated_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

_WHO = """
from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER
loader = _LOAD_FORMAT_TO_MODEL_LOADER["netloader"]
print("registered:", loader.__module__, loader.__name__)
"""
_THEIRS = "import vllm_ascend.model_loader.netloader.netloader\n"
_OURS = "from netloader.engine.plugin import register\nregister()\nregister()\n"


@pytest.mark.parametrize("script", [_OURS + _THEIRS, _THEIRS + _OURS])
def test_the_name_means_this_package_whoever_registers_first(home: Path, script: str) -> None:
    path = Path(__file__).parent / "fake_ascend"
    run = subprocess.run(
        [sys.executable, "-c", script + _WHO],
        env=isolated_environment(home) | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    assert "registered: netloader.engine.loader NetLoader" in run.stdout
    ours = [line for line in run.stdout.splitlines() if "NetLoader'>" in line]
    assert len(ours) <= 2, "registered again although it was registered already"
