"""Which files does this process open? Noted while a model is built and filled.

A model class may read weights that no loader knows of: adapters, projections, tokenizers with
weights of their own. No evidence covers those, and nothing says beforehand that they exist; but the
interpreter tells of every file that Python opens, and `safe_open` is the one door to safetensors.
What native code opens by itself is not seen.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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


@dataclass
class Opened:
    """Files that were opened for reading, as they were named."""

    paths: set[str] = field(default_factory=set)

    def beyond(self, covered: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
        """Those that may be weights and are none of `covered`, sorted, links resolved.

        `covered` has no links. `folders`: where the checkpoint lies.
        """
        known = frozenset(covered)
        beside = [folder.resolve() for folder in folders]
        found = set()
        for text in self.paths:
            path = Path(text)
            real = path.resolve()
            if real in known or not real.is_file():
                continue
            # A blob of the Hub's cache has no ending; the link to it has.
            ending = path.suffix.lower()
            near = any(folder in (real.parent, *path.absolute().parents) for folder in beside)
            if ending in WEIGHTS or (near and ending not in TEXT and path.name[:1] != "."):
                found.add(path.absolute())
        return sorted(found)


_watchers: list[Opened] = []
"""Those that are being told. Mostly none."""


@contextmanager
def watching(opened: Opened) -> Iterator[None]:
    """Note what this process opens while it lasts, in whatever thread: loaders start their own."""
    _install()
    _watchers.append(opened)
    with _safetensors(opened):
        try:
            yield
        finally:
            _watchers.remove(opened)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watchers:
        return
    path, mode, flags = arguments[0], arguments[1], arguments[2] if len(arguments) > 2 else 0
    if isinstance(path, int) or (isinstance(mode, str) and not set(mode).isdisjoint("wax")):
        return
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_DIRECTORY):
        return
    try:
        text = os.fsdecode(path)
    except TypeError:
        return
    for opened in _watchers:
        opened.paths.add(text)


_installed = False


def _install() -> None:
    """An audit hook cannot be taken away, so there is one, which mostly returns at once."""
    global _installed
    if not _installed:
        sys.addaudithook(_heard)
        _installed = True


@contextmanager
def _safetensors(opened: Opened) -> Iterator[None]:
    """Put a door-keeper before `safe_open`, under whatever name a module has it."""
    try:
        import safetensors
    except ImportError:
        yield
        return
    real = safetensors.safe_open
    keeper = _keeper(real, opened)
    places = [
        (module, name)
        for module in list(sys.modules.values())
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is real and name == "safe_open"
    ]
    for module, name in places:
        setattr(module, name, keeper)
    try:
        yield
    finally:
        for module, name in places:
            if getattr(module, name, None) is keeper:
                setattr(module, name, real)


def _keeper(real: Callable[..., Any], opened: Opened) -> Callable[..., Any]:
    def safe_open(filename: Any, *args: Any, **kwargs: Any) -> Any:
        opened.paths.add(os.fsdecode(filename))
        return real(filename, *args, **kwargs)

    return safe_open
