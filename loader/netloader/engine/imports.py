"""Something to do around the import of a module that nobody has imported yet.

A plugin of vLLM that imported all it wants to change would import it in every process, also where
it is not used, and before others that change it. `ImportWatch` waits instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class ImportWatch(MetaPathFinder):
    """Runs the body of each module of `names` within `around`, from when it is installed.

    What has been imported before is not run again. An error of `around` would reach whoever imports
    the module.
    """

    def __init__(
        self, names: Sequence[str], around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._names = frozenset(names)
        self._around = around

    def install(self) -> None:
        """Watch from now on. A second call changes nothing."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with the body of a watched module wrapped."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            # Python passes over finders of the old kind, which have no such method.
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Around(spec.loader, self._around)
                return spec
        return None


class _Around(Loader):
    """Runs a module's body within a context manager, and is gone afterwards."""

    def __init__(self, loader: Loader, around: Callable[[], AbstractContextManager[None]]) -> None:
        self._loader = loader
        self._around = around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks the module for its source or its resources later finds its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._around():
            self._loader.exec_module(module)
