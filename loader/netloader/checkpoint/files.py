"""The files that a checkpoint is read from, and whether they have changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from netloader.errors import IdentityError


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file that a loader reads."""

    path: Path
    prefix: str = ""
    """Put by the loader before the names of this file's tensors."""


Files = Sequence[WeightFile]
"""In the order in which the loader reads them: of two tensors with one name, the later one wins."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file looked like from outside. Equal stamps mean nobody wrote to it in between."""

    path: str
    """As the loader names it, links and all."""
    real: str
    """Absolute, without links."""
    size: int
    """In bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int


def stamps(files: Files) -> tuple[Stamp, ...]:
    """Look at each file. Raises `IdentityError` for one that is missing or not a regular file."""
    folders: dict[str, str] = {}
    return tuple(_stamp(os.fspath(file.path), folders) for file in files)


def changed_since(before: Sequence[Stamp]) -> str | None:
    """Words for the first file that has changed; None when none has."""
    folders: dict[str, str] = {}
    for old in before:
        try:
            new = _stamp(old.path, folders)
        except IdentityError as error:
            return str(error)
        for field in fields(Stamp):
            was, now = getattr(old, field.name), getattr(new, field.name)
            if was != now:
                return f"{old.path} has changed ({field.name}: {was} before, {now} now)"
    return None


@contextmanager
def opened(seen: Stamp) -> Iterator[int]:
    """A descriptor of the very file that was seen.

    Raises `IdentityError`, naming the file, when it cannot be opened or has been replaced.
    """
    with reported(seen):
        # A pipe put in its place must not block this thread.
        file = os.open(seen.real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        state = os.fstat(file)
        now = (state.st_size, state.st_mtime_ns, state.st_ino, state.st_dev)
        if now != (seen.size, seen.mtime_ns, seen.inode, seen.device):
            raise IdentityError(f"{seen.path} has changed while its content was read")
        yield file
    finally:
        os.close(file)


@contextmanager
def reported(seen: Stamp) -> Iterator[None]:
    """Turn every `OSError` into an `IdentityError` that names the file."""
    try:
        yield
    except OSError as error:
        raise _unreadable(seen.path, error) from error


def _stamp(path: str, folders: dict[str, str]) -> Stamp:
    try:
        real = _real(os.fspath(Path(path).absolute()), folders)
        state = os.stat(real)  # noqa: PTH116 - a string path, called by the hundred
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(state.st_mode):
        raise IdentityError(f"the weight file {path} is no regular file")
    return Stamp(
        path=path,
        real=real,
        size=state.st_size,
        mtime_ns=state.st_mtime_ns,
        ctime_ns=state.st_ctime_ns,
        inode=state.st_ino,
        device=state.st_dev,
    )


def _real(path: str, folders: dict[str, str]) -> str:
    """`os.path.realpath` for many files in few folders. The original asks again for every folder
    on the way, and on network storage each question costs a round trip."""
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)  # noqa: PTH118
        if not os.path.islink(path):  # noqa: PTH114
            return path
        path = os.path.join(folders[folder], os.readlink(path))  # noqa: PTH115, PTH118
    raise OSError(f"more than {_MOST_LINKS} links, one after the other")


_MOST_LINKS = 40
"""The limit that Linux itself uses."""


def _unreadable(path: str, error: OSError) -> IdentityError:
    return IdentityError(f"the weight file {path} cannot be read: {error.strerror or error}")
