"""vLLM's way in: registers the loader in every process of an engine.

vLLM calls `register` in the API server, the engine core and each worker, sometimes more than once.
So `register` must be cheap and idempotent: it starts nothing, and the mesh is joined when a model
is loaded. In the API server the call comes before vLLM binds workers to cores, so `register` notes
the cores.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging

LOAD_FORMAT = "netloader"

_log = logging.getLogger(__name__)


def register() -> None:
    """Register this package's loader as `--load-format netloader`."""
    from vllm.model_executor import model_loader

    from netloader.engine.loader import NetLoader
    from netloader.system import affinity

    affinity.remember()
    if model_loader._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT) is NetLoader:
        return
    _share_logging()
    # vLLM Ascend registers a loader of this name when its module is imported. The last registration
    # wins, so theirs has to come before ours.
    if importlib.util.find_spec("vllm_ascend") is not None:
        try:
            importlib.import_module("vllm_ascend.model_loader.netloader.netloader")
        except (ImportError, OSError) as error:
            # It is too old to have one, or its shared libraries are missing: no registration
            # competes.
            _log.warning(
                "vllm_ascend is installed, but its netloader cannot be imported: %s", error
            )
    model_loader.register_model_loader(LOAD_FORMAT)(NetLoader)


def _share_logging() -> None:
    """Send our log lines where vLLM's go: vLLM sets up handlers for its own name only."""
    theirs = logging.getLogger("vllm")
    for name in ("netloader", "netmesh"):
        ours = logging.getLogger(name)
        if not ours.handlers and theirs.handlers:
            ours.handlers = list(theirs.handlers)
            ours.setLevel(theirs.level)
            ours.propagate = False
