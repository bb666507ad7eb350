"""Which files does this process open? Noted while a model is built and filled.

A model class may read weights that no loader knows of: adapters, projections, tokenizers with
weights of their own. No evidence covers those, and nothing says beforehand that they exist; but
Python opens files through two functions, and `safe_open` is the one door to safetensors. While
somebody watches, these have a keeper before them.

An audit hook would see more, and could never be taken away: from then on it would cost the model a
call of Python for whatever the interpreter audits. What native code opens by itself is not seen,
nor what is opened relative to a directory's descriptor.
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
"""Endings of files beside a checkpoint that hold configs, tokenizers and code. Whatever else is
opened there may be weights."""

WEIGHTS: Final = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".gguf", ".onnx", ".h5"}
)
"""Endings by which weights are recognised that lie somewhere else."""


@dataclass(eq=False)
class Opened:
    """Files that were opened for reading, by their absolute names, links and all."""

    paths: set[str] = field(default_factory=set)

    def beyond(self, covered: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
        """Those that may be weights and are none of `covered` by whatever link, sorted.

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
    """The file behind all links; None when there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _beside(folders: Iterable[Path]) -> Iterator[Path]:
    """`folders` without links, and the folders that the Hub's cache links from there to."""
    for folder in folders:
        real = folder.resolve()
        yield real
        if real.parent.name == "snapshots":
            yield real.parent.parent / "blobs"


def _places(path: Path) -> Iterator[Path]:
    """All folders that a file is in: those of its name and those of what is behind it."""
    named = path.parent.resolve()
    yield named
    yield from named.parents
    yield from path.resolve().parents


_watchers: tuple[Opened, ...] = ()
"""Those that are being told. Mostly none."""

_changing = threading.Lock()
"""Held while watchers come and go, and `safe_open` with them."""

_unheeded = threading.local()


@contextmanager
def watching(opened: Opened) -> Iterator[None]:
    """Note what this process opens while it lasts, in whatever thread: loaders start their own."""
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
    """Do not note what this thread opens while it lasts."""
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
        # The working directory may be another one when somebody asks.
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
"""Module, name, function and keeper. Callers look them up there when they open a file."""


def _guard_open() -> None:
    for module, name, real, keeper in _DOORS:
        # Somebody else's keeper stays, and what is opened through it is not seen.
        if getattr(module, name) is real:
            setattr(module, name, keeper)


def _release_open() -> None:
    for module, name, real, keeper in _DOORS:
        if getattr(module, name) is keeper:
            setattr(module, name, real)


class _Keeper:
    """Stands in the place of `safe_open`, a class, and notes what is opened through it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __call__(self, filename: Any, *args: Any, **kwargs: Any) -> Any:
        _note(filename)
        return self.real(filename, *args, **kwargs)

    # What is imported in the meantime may use it as the class that it is.

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.real)

    def __or__(self, other: Any) -> Any:
        return self.real | other

    def __ror__(self, other: Any) -> Any:
        return other | self.real


@dataclass(frozen=True)
class _Guard:
    """A keeper in the place of `safe_open`, under whatever name a module has it."""

    keeper: _Keeper
    places: tuple[tuple[ModuleType, str], ...]
    modules: frozenset[str]
    """Those that there were then."""

    def lift(self) -> None:
        """Also where a module took the keeper for the real one while it was imported."""
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
        # vLLM's process has 200,000 names: a loop of the interpreter's own is three times as fast.
        if any(map(is_, names.values(), repeat(value))):
            yield from ((module, name) for name, other in names.items() if other is value)
