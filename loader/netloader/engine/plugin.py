"""vLLM's way in: `register` gives `--load-format netloader` its meaning in every process.

vLLM calls `register` in the API server, the engine core, each worker and the processes that inspect
models, sometimes more than once, and in all those that do not use this format as well. So it
imports next to nothing, starts nothing, and never raises: an error of a plugin ends every vLLM of
the environment. The loader is imported when vLLM asks for it (`entry.py`), the mesh is joined when
a model is loaded. In the API server the call comes before vLLM binds workers to cores, so
`register` notes the cores.

vLLM Ascend has a loader of the same name. Every kind of device is served, so the name is ours in
the end, whichever of the two comes first. `entry.py` says in one line how to get the other loader.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from netloader.engine.imports import ImportWatch
from netloader.engine.ray import OF_ONE_HOST, keep_apart, share_settings
from netloader.system import affinity

LOAD_FORMAT: Final = "netloader"

_TABLE: Final = "vllm.model_executor.model_loader"
"""vLLM's module that maps formats to loaders. It is not imported when vLLM calls its plugins."""

_RAY: Final = "vllm.ray.ray_env"
"""vLLM's module that says what is copied to workers that Ray starts."""

_UPSTREAM: Final = "vllm_ascend.model_loader.netloader.netloader"
"""vLLM Ascend's module that registers a loader of our name when it is imported."""

_log = logging.getLogger(__name__)


def register() -> None:
    """Make `--load-format netloader` mean this package's loader. Never raises."""
    try:
        affinity.remember()
        share_settings()
        _share_logging()
        _WATCH.install()
        _RAY_WATCH.install()
    except Exception as error:  # noqa: BLE001 - whatever it is, vLLM starts without us
        _not_available(error)
    if _TABLE in sys.modules:
        _take_name()
    if _RAY in sys.modules:
        _keep_apart()


_under_way: Final[list[None]] = []
"""One entry for each watched import that has begun and not ended: upstream's imports the table."""


@contextmanager
def _without_name() -> Iterator[None]:
    """Leave the name to others meanwhile, so that vLLM does not warn of two, and take it after."""
    _leave_name()
    _under_way.append(None)
    whole = False
    try:
        yield
        whole = True
    finally:
        _under_way.pop()
        table = sys.modules.get(_TABLE)
        if not _under_way and (whole or hasattr(table, "register_model_loader")):
            _take_name()


_WATCH: Final = ImportWatch((_TABLE, _UPSTREAM), _without_name)


def _take_name() -> None:
    """Never raises: this may run inside an import of vLLM's."""
    try:
        # By now the table has imported all that `entry` needs of vLLM.
        from vllm.model_executor import model_loader as table

        from netloader.engine.entry import LoaderEntry

        had = table._LOAD_FORMAT_TO_MODEL_LOADER.get(LOAD_FORMAT)
        if had is LoaderEntry:
            return
        if had is not None:
            LoaderEntry.displaced = had
            _leave_name()
        table.register_model_loader(LOAD_FORMAT)(LoaderEntry)
    except Exception as error:  # noqa: BLE001 - whatever it is, vLLM goes on without us
        _not_available(error)


def _leave_name() -> None:
    table = sys.modules.get(_TABLE)
    getattr(table, "_LOAD_FORMAT_TO_MODEL_LOADER", {}).pop(LOAD_FORMAT, None)


def _not_available(error: Exception) -> None:
    _log.warning(
        "--load-format netloader is not available in this process: %r; every other format works",
        error,
        exc_info=_log.isEnabledFor(logging.DEBUG),
    )


@contextmanager
def _kept_apart() -> Iterator[None]:
    yield
    _keep_apart()


_RAY_WATCH: Final = ImportWatch((_RAY,), _kept_apart)


def _keep_apart() -> None:
    """Never raises: this may run inside an import of vLLM's."""
    try:
        from vllm.ray.ray_env import RAY_NON_CARRY_OVER_ENV_VARS

        keep_apart(RAY_NON_CARRY_OVER_ENV_VARS)
    except Exception as error:  # noqa: BLE001 - whatever it is, vLLM goes on without us
        _log.warning(
            "workers that Ray starts may get settings of this host (%s): %r",
            ", ".join(sorted(OF_ONE_HOST)),
            error,
        )


def _share_logging() -> None:
    """Send our log lines where vLLM's go. vLLM sets its handlers up later in some processes, so our
    loggers become children of its own."""
    for name in ("netloader", "netmesh"):
        logging.getLogger(name).parent = logging.getLogger("vllm")
