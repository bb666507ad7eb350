"""Error trees as their module draws them, and as the classes of a package really stand."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

Tree = dict[str, str]
"""Parents by class name; the base's is the empty string."""

_INDENT = 4
_LINE = re.compile(r"( {4}(?:[│| ] {3})*(?:[├└+][─-]{2} )?)([A-Z]\w+)(?: {2,}\S.*)?")


def drawn(module: ModuleType) -> Tree:
    """The tree in a module's docstring: the first indented block of it."""
    lines = (module.__doc__ or "").splitlines()
    tree: Tree = {}
    above: list[str] = []
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            if tree:
                break
            continue
        depth = len(found[1]) // _INDENT - 1
        assert depth <= len(above), f"{found[2]} hangs in the air"
        assert found[2] not in tree, f"{found[2]} is drawn twice"
        tree[found[2]] = above[depth - 1] if depth else ""
        above[depth:] = [found[2]]
    return tree


def defined(base: type[Exception], package: ModuleType, *but: str) -> Tree:
    """The tree of `base` in all modules of `package`, `but` for these packages in it.

    Classes that tests derive do not count, nor do private ones: what never leaves its file is known
    to others as its base.
    """
    for name in _modules(package, but):
        importlib.import_module(name)
    tree = {base.__name__: ""}
    open_ends: list[type[Exception]] = [base]
    while open_ends:
        parent = open_ends.pop()
        for child in parent.__subclasses__():
            ours = f"{child.__module__}.".startswith(f"{package.__name__}.")
            if ours and child.__name__.startswith("_"):
                assert not child.__subclasses__(), f"{child.__name__} is private and a base"
            elif ours:
                assert child.__name__ not in tree, f"two classes are called {child.__name__}"
                tree[child.__name__] = parent.__name__
                open_ends.append(child)
    return tree


def _modules(package: ModuleType, but: tuple[str, ...]) -> Iterator[str]:
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if found.name in but:
            continue
        yield found.name
        if found.ispkg:
            yield from _modules(importlib.import_module(found.name), but)


def exceptions(package: ModuleType, *but: str) -> set[type[BaseException]]:
    """Every exception class that a module of `package` defines for others to see."""
    found = set()
    for name in _modules(package, but):
        module = importlib.import_module(name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, BaseException):
                found.add(value)
    return {one for one in found if f"{one.__module__}.".startswith(f"{package.__name__}.")}
