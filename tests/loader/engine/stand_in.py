"""A few lines that stand in for vLLM and vLLM Ascend where loaders are registered, as files.

The real ones take seconds to import. `tests/e2e/test_plugin.py` and `tests/ascend/test_plugins.py`
do the same with them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

TABLE: Final = "vllm/model_executor/model_loader/__init__.py"
RAY: Final = "vllm/ray/ray_env.py"
UPSTREAM: Final = "vllm_ascend/model_loader/netloader/netloader.py"

FILES: Final[Mapping[str, str]] = {
    "vllm/__init__.py": "",
    RAY: "RAY_NON_CARRY_OVER_ENV_VARS = {'THEIRS'}\n",
    "vllm/ray/__init__.py": "",
    "vllm/version.py": "__version__ = '0.32.0'\n",
    "vllm/config/__init__.py": "",
    "vllm/config/load.py": "class LoadConfig:\n    device = None\n",
    "vllm/model_executor/__init__.py": "",
    TABLE: """
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

_LOAD_FORMAT_TO_MODEL_LOADER = {"auto": BaseModelLoader}


def register_model_loader(name):
    def registered(loader):
        if name in _LOAD_FORMAT_TO_MODEL_LOADER:
            print(f"warning: {name} is overwritten")
        _LOAD_FORMAT_TO_MODEL_LOADER[name] = loader
        return loader

    return registered


def get_model_loader(load_config):
    return _LOAD_FORMAT_TO_MODEL_LOADER["netloader"](load_config)
""",
    "vllm/model_executor/model_loader/base_loader.py": """
class BaseModelLoader:
    def __init__(self, load_config):
        self.load_config = load_config
""",
    "vllm_ascend/__init__.py": "",
    "vllm_ascend/model_loader/__init__.py": "",
    "vllm_ascend/model_loader/netloader/__init__.py": "",
    UPSTREAM: """
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader


@register_model_loader("netloader")
class Upstreams(BaseModelLoader):
    pass
""",
}


def installed(folder: Path, changed: Mapping[str, str] | None = None) -> Path:
    """Write the files, some of them `changed`, below `folder`, a place for PYTHONPATH."""
    for name, text in {**FILES, **(changed or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(folder: Path, script: str, env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """What a fresh interpreter that finds `folder` first writes to stdout and stderr."""
    path = ":".join([str(folder), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
