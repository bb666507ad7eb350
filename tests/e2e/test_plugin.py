"""Registration with a real vLLM, in processes of their own: it is global there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.servers import isolated_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

_THEIRS = "import vllm_ascend.model_loader.netloader.netloader\n"
_OURS = "from netloader.engine.plugin import register\nregister()\nregister()\n"
_USE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
print("before:", "netloader.engine.loader" in sys.modules)
for _ in range(2):
    loader = get_model_loader(LoadConfig(load_format="netloader"))
    print("used:", type(loader).__module__, type(loader).__name__)
print("auto:", type(get_model_loader(LoadConfig(load_format="auto"))).__name__)
"""


@pytest.mark.parametrize("script", [_OURS + _THEIRS, _THEIRS + _OURS], ids=["ours", "theirs"])
def test_the_name_means_this_package_whoever_registers_first(home: Path, script: str) -> None:
    path = Path(__file__).parent / "fake_ascend"
    done = subprocess.run(
        [sys.executable, "-c", script + _USE],
        env=isolated_environment(home) | {"PYTHONPATH": str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "before: False" in lines
    assert lines.count("used: netloader.engine.loader NetLoader") == 2
    assert "auto: DefaultModelLoader" in lines
    assert "overwritten" not in done.stdout
    (said,) = [line for line in lines if "VLLM_PLUGINS" in line]
    assert "FakeAscendNetLoader" in said and "leave netloader_mesh out" in said
