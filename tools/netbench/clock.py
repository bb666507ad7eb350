"""The seconds that a loader takes, measured by a plugin inside vLLM's worker.

Every load format is measured alike: the same clock around the same call. If a server's `PYTHONPATH`
begins with the folder that `install` has filled, the server runs the plugin in each of its
processes. Only the process that loads writes a result.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

import netbench

ENVIRONMENT: Final = "NETBENCH_CLOCK"
"""Variable that names the file to write. Without it the plugin does nothing."""

_GROUP: Final = "vllm.general_plugins"
_NAME: Final = "netbench_clock"


def install(folder: Path) -> dict[str, str]:
    """Put the plugin into `folder`; return the variables that a server needs to run it."""
    about = folder / f"{_NAME}-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[{_GROUP}]\n{_NAME} = netbench.clock:register\n")
    source_root = str(Path(netbench.__file__).parent.parent)
    before = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join(filter(None, (str(folder), before, source_root)))
    return {"PYTHONPATH": path}


def register() -> None:
    """vLLM calls this in each of its processes. Idempotent."""
    path = os.environ.get(ENVIRONMENT)
    if not path:
        return
    from vllm.model_executor import model_loader

    make: Any = model_loader.get_model_loader
    if getattr(make, "clocked", False):
        return

    def clocked(load_config: object) -> Any:
        loader = make(load_config)
        loader.load_model = _measured(loader.load_model, Path(path))
        return loader

    clocked.clocked = True  # type: ignore[attr-defined]
    model_loader.get_model_loader = clocked


def _measured(load_model: Any, path: Path) -> Any:
    def measured(*arguments: Any, **named: Any) -> Any:
        cpu, started = time.process_time(), time.perf_counter()
        model = load_model(*arguments, **named)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"seconds": seconds, "cpu_s": cpu_s}))
        fresh.replace(path)
        return model

    return measured
