"""Saves the workers of one host from reading the same checkpoint several times.

Each result is a small file in a folder that only this user can enter. A key names everything that a
result depends on, so entries never go out of date; they are only no longer asked for. When several
processes ask at once, one computes and the others wait for it.

The cache only ever saves work: whatever is wrong with its folder, the result is computed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson
import xxhash

from netmesh import SettingsError, private_directory

_log = logging.getLogger(__name__)

_NAME = re.compile(r"evidence-[0-9a-f]{32}")
_MAGIC: Final = b"netloader evidence 1\n"
_MOST_BYTES: Final = 4096
"""Size limit of an entry; a few hundred bytes are used."""

_WHAT: Final = "the cache directory"
"""How the mesh's errors name a folder that cannot be trusted: the folder is not a setting."""

_POLL_S: Final = 0.02
"""Pause between two checks whether another process is done: file locks have no timeout."""

_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class HostCache:
    """Results in a private folder of this user."""

    def __init__(
        self,
        directory: Path,
        *,
        entries: int = 1024,
        settle_s: float = 2.0,
        wait_s: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Touches nothing yet.

        directory: made when it is missing, mode 0700.
        entries: when there are more, the oldest go. The folder holds at most 4 KiB for each.
        settle_s: results from files that changed more recently than this are not remembered. Such
            a file may change again without a trace, within one tick of its file system's clock.
            Two seconds is the coarsest tick there is (FAT).
        wait_s: how long to wait for another process before computing anyway; a stopped process
            keeps its lock.
        clock: seconds since 1970, as file systems count them.
        """
        self._directory = directory
        self._entries = entries
        self._settle_s = settle_s
        self._wait_s = wait_s
        self._clock = clock

    def remembered(
        self,
        key: str,
        compute: Callable[[], str],
        *,
        newest_ns: int = 0,
        patience_s: float = 0.0,
        waiting: Callable[[], object] = lambda: None,
    ) -> str:
        """The result of `compute`, from the first process on this host that had it.

        key: everything that the result depends on, hashed; 32 hex digits or more.
        newest_ns: latest change of any file behind the result.
        patience_s: added to `wait_s`, for a result that takes long.
        waiting: called repeatedly while another process computes; its exception ends the wait.

        Raises what `compute` and `waiting` raise.
        """
        if self._clock() - newest_ns / 1e9 < self._settle_s:
            return compute()
        entry = self._entry(f"evidence-{key[:32]}")
        if entry is None:
            return compute()
        try:
            value = _parsed(_content(entry), key)
            if value is not None:
                return value
            locked = _lock(entry, self._wait_s + patience_s, waiting)
            value = _parsed(_content(entry), key)
            if value is None:
                value = compute()
                if locked and _write(entry, key, value):
                    self._sweep()
            return value
        finally:
            _released(entry)

    def note(self, key: str, value: str) -> None:
        """Keep the latest value of what changes with time, unless another process is noting it."""
        entry = self._entry(f"evidence-{key[:32]}")
        if entry is None:
            return
        try:
            if _lock(entry, 0.0, lambda: None) and _write(entry, key, value):
                self._sweep()
        finally:
            _released(entry)

    def noted(self, key: str) -> str | None:
        """The value that was noted last; None when none was."""
        entry = self._entry(f"evidence-{key[:32]}", create=False)
        if entry is None:
            return None
        try:
            return _parsed(_content(entry), key)
        finally:
            os.close(entry)

    def _entry(self, name: str, *, create: bool = True) -> int | None:
        """A descriptor of an entry's file; None when the file cannot be opened or made."""
        try:
            with private_directory(self._directory, create=create, key=_WHAT) as directory:
                return _opened_entry(name, directory, os.O_CREAT if create else 0)
        except (OSError, SettingsError) as error:
            _log.debug("no cache of evidence: %s", error)
            return None

    def _sweep(self) -> None:
        """Remove our oldest entries when there are too many, and never anything else."""
        try:
            with private_directory(self._directory, create=False, key=_WHAT) as directory:
                found = []
                with os.scandir(directory) as entries:
                    names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
                for name in names:
                    with suppress(OSError):
                        state = os.stat(name, dir_fd=directory, follow_symlinks=False)
                        found.append((state.st_mtime_ns, name))
                for _, name in sorted(found)[: max(0, len(found) - self._entries)]:
                    _remove(name, directory)
        except (OSError, SettingsError) as error:
            _log.debug("the cache of evidence is not swept: %s", error)


def _opened_entry(name: str, directory: int, flags: int = 0) -> int:
    entry = os.open(name, _FLAGS | flags, 0o600, dir_fd=directory)
    state = os.fstat(entry)
    if (
        stat.S_ISREG(state.st_mode)
        and state.st_uid == os.geteuid()
        and state.st_nlink == 1
        and not stat.S_IMODE(state.st_mode) & 0o077
    ):
        return entry
    os.close(entry)
    raise OSError(f"{name} is not a private file of this user")


def _content(entry: int) -> bytes:
    """What an entry holds. One byte beyond the limit is enough to see that it is too long."""
    try:
        return os.pread(entry, _MOST_BYTES + 1, 0)
    except OSError as error:
        _log.debug("an entry of the cache of evidence cannot be read: %s", error)
        return b""


def _parsed(content: bytes, key: str) -> str | None:
    """The value of an entry; None when it is empty, torn, for another key or not ours."""
    if not content.startswith(_MAGIC) or len(content) > _MOST_BYTES:
        return None
    body, newline, check = content[len(_MAGIC) :].partition(b"\n")
    if not newline or check != _check(body):
        return None
    try:
        found = orjson.loads(body)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    value = found.get("value")
    return value if isinstance(value, str) else None


def _check(body: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(body).encode()


def _is_ours(content: bytes) -> bool:
    """Whether this is our entry. True also for the start of one, whose writer was killed."""
    return _MAGIC.startswith(content[: len(_MAGIC)]) and len(content) <= _MOST_BYTES


def _write(entry: int, key: str, value: str) -> bool:
    """Store a result while holding the lock.

    Writes in place: a process that reads meanwhile finds a wrong checksum and waits for the lock.
    """
    body = orjson.dumps({"key": key, "value": value})
    content = _MAGIC + body + b"\n" + _check(body)
    if len(content) > _MOST_BYTES or not _is_ours(_content(entry)):
        return False
    try:
        os.ftruncate(entry, 0)
        os.pwrite(entry, content, 0)
    except OSError as error:
        _log.debug("evidence is not remembered: %s", error)
        return False
    return True


def _lock(entry: int, wait_s: float, waiting: Callable[[], object]) -> bool:
    """Whether this process holds the lock; False when another process takes too long."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        except OSError as error:
            _log.debug("entries of the cache of evidence cannot be locked: %s", error)
            return False
        else:
            return True
        waiting()
        time.sleep(_POLL_S)


def _released(entry: int) -> None:
    """Unlock and close. `close` is not enough: a child that was forked meanwhile holds the lock as
    well."""
    with suppress(OSError):
        fcntl.flock(entry, fcntl.LOCK_UN)
    os.close(entry)


def _remove(name: str, directory: int) -> None:
    """Remove an entry, unless a process is working on it or it is not ours after all."""
    with suppress(OSError):
        entry = _opened_entry(name, directory)
        try:
            fcntl.flock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_ours(_content(entry)):
                os.unlink(name, dir_fd=directory)
        finally:
            os.close(entry)
