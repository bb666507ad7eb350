"""What stands in vLLM's table of loaders under our name, until vLLM asks for the loader itself.

Everything heavy is imported here and only then: the loader, its groups, ZeroMQ, the mesh. The
version of vLLM is looked at before that, because another version may lack what they import.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import ClassVar

import vllm.version
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from netloader.engine import versions
from netloader.errors import UnsupportedError

_log = logging.getLogger(__name__)


class LoaderEntry(BaseModelLoader):
    """Makes a `NetLoader` where vLLM makes an object of this class; there is never one."""

    displaced: ClassVar[type[BaseModelLoader] | None] = None
    """The loader that had the name before: vLLM Ascend has one of its own. That one answers where
    ours cannot."""

    def __new__(cls, load_config: LoadConfig) -> BaseModelLoader:
        """Raises `UnsupportedError` where no other loader has the name, and what `NetLoader`
        raises."""
        theirs = cls.displaced
        try:
            ours = _imported()
        except UnsupportedError as error:
            if theirs is None:
                raise
            _warn_once(f"{error}; until then --load-format netloader is {_named(theirs)}")
            return theirs(load_config)
        if theirs is not None:
            _note_once(
                f"--load-format netloader is Netloader Mesh; to have {_named(theirs)} instead, "
                "leave netloader_mesh out of VLLM_PLUGINS"
            )
        return ours(load_config)


def _imported() -> type[BaseModelLoader]:
    """The loader. Raises `UnsupportedError`."""
    version = vllm.version.__version__
    versions.check(version, os.environ)
    try:
        from netloader.engine.loader import NetLoader
    except ImportError as error:
        if not (error.name or "").startswith("vllm"):
            raise
        remedy = f"see what this one lacks: {error}"
        raise UnsupportedError(version, versions.supported(), remedy) from error
    return NetLoader


def _named(loader: type) -> str:
    return f"{loader.__module__}.{loader.__qualname__}"


# vLLM makes a loader more than once in a process.
@cache
def _note_once(line: str) -> None:
    _log.info(line)


@cache
def _warn_once(line: str) -> None:
    _log.warning(line)
