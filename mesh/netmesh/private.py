"""Directories that only this user can enter: where they are, and how they are opened and checked.

A check of a path holds only until somebody replaces the directory behind it. So these functions
open a directory first and check the open one. All work relative to the descriptor stays in the
directory that was checked.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from netmesh.errors import SettingsError

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def user_directory(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """`<name>-<uid>` in `$XDG_RUNTIME_DIR`, else in the temporary directory. Does not create it.

    `XDG_RUNTIME_DIR` counts only if it belongs to this user, because `sudo` keeps the caller's.
    Without a writable temporary directory the path is one below `/tmp`: whoever opens it learns
    from the operating system what is wrong there.
    """
    environ = os.environ if environ is None else environ
    try:
        base = tempfile.gettempdir()
    except FileNotFoundError:
        base = "/tmp"
    with suppress(OSError, KeyError):
        if os.stat(environ["XDG_RUNTIME_DIR"]).st_uid == os.geteuid():  # noqa: PTH116
            base = environ["XDG_RUNTIME_DIR"]
    return Path(base) / f"{name}-{os.geteuid()}"


@contextmanager
def private_directory(path: Path, *, create: bool, key: str) -> Iterator[int]:
    """A descriptor of the directory `path`, open within the context.

    With `create`, makes a missing directory (mode 0700) and its parents. Raises SettingsError,
    which names the setting `key`, when `path` is a symbolic link, is not a directory, belongs to
    another user or is open to others. Raises OSError when the file system refuses:
    FileNotFoundError when there is no such directory and `create` is false.
    """
    if create:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
    with _checked(path, None, path, key) as directory:
        yield directory


@contextmanager
def private_subdirectory(
    directory: int, name: str, *, create: bool, key: str, within: Path
) -> Iterator[int]:
    """A descriptor of the sub-folder `name` of a directory that `private_directory` yielded.

    `name` is one path component. `within` is the path of `directory`, for the message only. The
    sub-folder passes the same checks as its directory; errors are those of `private_directory`.
    """
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
    with _checked(name, directory, within / name, key) as below:
        yield below


@contextmanager
def _checked(path: Path | str, parent: int | None, shown: Path, key: str) -> Iterator[int]:
    try:
        directory = os.open(path, _FLAGS, dir_fd=parent)
    except OSError as error:
        # For a symbolic link, too, Linux reports ENOTDIR, because of O_DIRECTORY.
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise _refused(key, shown, "a symbolic link or not a directory") from None
    try:
        state = os.fstat(directory)
        if state.st_uid != os.geteuid():
            raise _refused(key, shown, f"owned by user {state.st_uid}")
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise _refused(key, shown, f"open to others (mode {stat.S_IMODE(state.st_mode):04o})")
        yield directory
    finally:
        os.close(directory)


def _refused(key: str, path: Path, why: str) -> SettingsError:
    return SettingsError(
        key,
        str(path),
        f"it is {why}, so others could plant files there: remove it, `chmod 700` it, or "
        "name a directory of your own",
    )
