"""Notes which files this process opens while a model is built and filled.

A model class may read weights that no loader knows of: adapters, projections, tokenizers with
weights of their own. No evidence covers those, and nothing announces them. But Python opens files
through two functions, and `safe_open` is the one door to safetensors. While somebody watches, a
keeper stands in front of each.

An audit hook would see more but could never be removed: every event that the interpreter audits
would then cost the model a Python call. Files opened by native code itself, or relative to a
directory's descriptor, are not seen.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from pathlib import Path
from types import ModuleType
from typing import Any, Final

TEXT: Final = frozenset(
    {
        ".json",
        ".jsonl",
        ".txt",
        ".md",
        ".py",
        ".pyc",
        ".jinja",
        ".yaml",
        ".yml",
        ".toml",
        ".model",
        ".tiktoken",
        ".lock",
        ".metadata",
    }
)
"""Endings of config, tokenizer and code files beside a checkpoint. Any other file opened there may
hold weights."""

WEIGHTS: Final = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".gguf", ".onnx", ".h5"}
)
"""Endings of weight files, by which they are recognised in other folders."""


@dataclass(eq=False)
class Opened:
    """Files that were opened for reading, by absolute path with links unresolved."""

    paths: set[str] = field(default_factory=set)

    def beyond(self, covered: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
        """Files that may be weights and are not in `covered` under any link, sorted.

        `folders`: where the checkpoint lies.
        """
        known = {_file(path) for path in covered}
        beside = frozenset(_beside(folders))
        found = []
        for text in sorted(self.paths):
            path = Path(text)
            # A blob of the Hub's cache has no ending; the link to it has.
            ending = path.suffix.lower()
            if ending not in WEIGHTS and (ending in TEXT or path.name[:1] == "."):
                continue
            if ending not in WEIGHTS and beside.isdisjoint(_places(path)):
                continue
            file = _file(path)
            if file is not None and file not in known and path.is_file():
                found.append(path)
        return found


def _file(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file behind all links; None when there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _beside(folders: Iterable[Path]) -> Iterator[Path]:
    """`folders` with links resolved, and the Hub cache's blob folders that they link to."""
    for folder in folders:
        real = folder.resolve()
        yield real
        if real.parent.name == "snapshots":
            yield real.parent.parent / "blobs"


def _places(path: Path) -> Iterator[Path]:
    """All folders above a file: those of its path and those of its link target."""
    named = path.parent.resolve()
    yield named
    yield from named.parents
    yield from path.resolve().parents


_watchers: tuple[Opened, ...] = ()
"""The watchers that note opened files. Mostly empty."""

_changing = threading.Lock()
"""Held while watchers come and go and `safe_open` is replaced or restored."""

_unheeded = threading.local()


@contextmanager
def watching(opened: Opened) -> Iterator[None]:
    """Note what this process opens meanwhile, in any thread: loaders start their own."""
    global _watchers
    with _changing:
        if not _watchers:
            _guard_open()
            _guard_safetensors()
        _watchers = (*_watchers, opened)
    try:
        yield
    finally:
        with _changing:
            _watchers = tuple(other for other in _watchers if other is not opened)
            if not _watchers:
                _release_safetensors()
                _release_open()


@contextmanager
def unheeded() -> Iterator[None]:
    """Do not note what this thread opens meanwhile."""
    before = getattr(_unheeded, "depth", 0)
    _unheeded.depth = before + 1
    try:
        yield
    finally:
        _unheeded.depth = before


def _note(path: object) -> None:
    if getattr(_unheeded, "depth", 0):
        return
    try:
        text = os.fsdecode(path)  # type: ignore[arg-type]
        # The working directory may have changed by the time somebody asks.
        absolute = text if text.startswith(os.sep) else str(Path.cwd() / text)
    except (TypeError, OSError):
        return
    for opened in _watchers:
        opened.paths.add(absolute)


def _open_noted(file: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> Any:
    if isinstance(mode, str) and set(mode).isdisjoint("wax") and not isinstance(file, int):
        _note(file)
    return _REAL_OPEN(file, mode, *args, **kwargs)


def _os_open_noted(path: Any, flags: Any, *args: Any, **kwargs: Any) -> Any:
    relative = kwargs.get("dir_fd") is not None
    if not relative and isinstance(flags, int) and not flags & (os.O_WRONLY | os.O_DIRECTORY):
        _note(path)
    return _REAL_OS_OPEN(path, flags, *args, **kwargs)


_REAL_OPEN, _REAL_OS_OPEN = builtins.open, os.open

_DOORS: Final[tuple[tuple[ModuleType, str, Any, Any], ...]] = (
    (builtins, "open", _REAL_OPEN, _open_noted),
    (io, "open", _REAL_OPEN, _open_noted),
    (os, "open", _REAL_OS_OPEN, _os_open_noted),
)
"""Module, name, function and keeper. Callers look the function up there to open a file."""


def _guard_open() -> None:
    for module, name, real, keeper in _DOORS:
        # Another party's keeper stays; files opened through it are not seen.
        if getattr(module, name) is real:
            setattr(module, name, keeper)


def _release_open() -> None:
    for module, name, real, keeper in _DOORS:
        if getattr(module, name) is keeper:
            setattr(module, name, real)


class _Keeper:
    """Replaces `safe_open`, a class, and notes the files opened through it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __call__(self, filename: Any, *args: Any, **kwargs: Any) -> Any:
        _note(filename)
        return self.real(filename, *args, **kwargs)

    # Modules imported meanwhile may use this as the class that it replaces.

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.real)

    def __or__(self, other: Any) -> Any:
        return self.real | other

    def __ror__(self, other: Any) -> Any:
        return other | self.real


@dataclass(frozen=True)
class _Guard:
    """A keeper that replaces `safe_open` under every name that modules have for it."""

    keeper: _Keeper
    places: tuple[tuple[ModuleType, str], ...]
    modules: frozenset[str]
    """Names of the modules that were loaded at that time."""

    def lift(self) -> None:
        """Restore `safe_open`, also in modules that imported the keeper meanwhile."""
        later = [sys.modules[name] for name in sys.modules.keys() - self.modules]
        for module, name in (*self.places, *_places_of(self.keeper, later)):
            if getattr(module, name, None) is self.keeper:
                setattr(module, name, self.keeper.real)


_guard: _Guard | None = None


def _guard_safetensors() -> None:
    global _guard
    try:
        import safetensors
    except ImportError:
        return
    keeper = _Keeper(safetensors.safe_open)
    modules = dict(sys.modules)
    places = tuple(_places_of(keeper.real, modules.values()))
    for module, name in places:
        setattr(module, name, keeper)
    _guard = _Guard(keeper, places, frozenset(modules))


def _release_safetensors() -> None:
    global _guard
    if _guard is not None:
        _guard.lift()
        _guard = None


def _places_of(value: object, modules: Iterable[ModuleType]) -> Iterator[tuple[ModuleType, str]]:
    for module in modules:
        names = dict(getattr(module, "__dict__", {}))
        # vLLM's process has 200,000 names, and `map` is three times as fast as a Python loop.
        if any(map(is_, names.values(), repeat(value))):
            yield from ((module, name) for name, other in names.items() if other is value)
