"""The same-host directory: members of one user on one machine find each other without settings.

Each member of a mesh has one small JSON file, in a sub-folder of a directory that only its owner
can enter. Files are hints: a stale one costs a refused connection. A member that was killed cannot
remove its file, so every member that announces itself sweeps away the entries of processes that are
gone. No other process writes or removes anything. A file is only removed if it is certainly an
entry: its content must match its name, in a version that we know.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from netmesh.address import Address, numeric_address
from netmesh.core.records import MemberId
from netmesh.errors import SettingsError
from netmesh.private import private_directory, private_subdirectory

FOLDER: Final = "netmesh"
"""The sub-folder of the entries, because the directory may hold other things."""

VERSION: Final = 1
"""Version of an entry. Entries of other versions are left to members of those versions."""

MAX_ENTRIES = 256
"""Files that one reading opens: several times the workers of the biggest host."""

MAX_BYTES = 2048
"""An entry has ~250 bytes; a bigger file is not an entry."""

FOREIGN_TTL_S = 600.0
"""An entry whose process is invisible from here (another container or host) is swept after this
long without a touch. Its owner touches it at every bootstrap round (<= 30 s). The same limit holds
for a file that was written but never renamed to its final name."""

_KEY: Final = "MESH_DIRECTORY"

_NAME: Final = re.compile(
    r"(?P<unfinished>\.)?(?P<name>[0-9a-f]{12}-[0-9]+-[0-9]+-[0-9a-f]{8}\.json)(?(1)\.new)"
)
"""Name of an entry's file; a file that is being written has a leading dot and a trailing `.new`."""


@dataclass(frozen=True, slots=True)
class HostEntry:
    address: Address
    mesh: str
    pid: int
    started: str
    pid_namespace: str
    net_namespace: str

    @property
    def name(self) -> str:
        """Name of its file. No other entry has the same."""
        # Containers that share the directory each have a process 1, so the namespace is part of it.
        place = hashlib.blake2b(self.net_namespace.encode(), digest_size=4).hexdigest()
        return f"{_tag(self.mesh)}-{self.pid}-{self.address.port}-{place}.json"

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "version": VERSION,
                "id": str(self.address),
                "mesh": self.mesh,
                "pid": self.pid,
                "started": self.started,
                "pid_namespace": self.pid_namespace,
                "net_namespace": self.net_namespace,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> HostEntry | None:
        """The entry in `data`; None if there is none of this version."""
        try:
            raw = orjson.loads(data)
        except ValueError:
            return None
        match raw:
            case {
                "version": int(version),
                "id": str(id),
                "mesh": str(mesh),
                "pid": int(pid),
                "started": str(started),
                "pid_namespace": str(pid_namespace),
                "net_namespace": str(net_namespace),
            } if version == VERSION and not isinstance(version, bool):
                address = numeric_address(MemberId(id))
                if address is None:
                    return None
                return cls(address, mesh, pid, started, pid_namespace, net_namespace)
        return None


@dataclass(frozen=True, slots=True)
class _File:
    """A file whose content matches its name."""

    name: str
    entry: HostEntry
    age_s: float
    unfinished: bool

    @property
    def is_stale(self) -> bool:
        if self.unfinished:
            return self.age_s > FOREIGN_TTL_S
        return _is_gone(self.entry, self.age_s)


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """What one member has written into the directory, for people to look at."""

    path: Path
    mesh: str
    """Name of the member's mesh."""
    member: MemberId
    """Where the member said that it listens."""
    pid: int
    """Its process, in a namespace of process ids that may not be ours."""
    stale: bool
    """Whether that process is gone, as far as can be told from here."""


class HostDirectory:
    """The directory as one mesh sees it.

    Only `announce` and `withdraw` write or remove anything, and only members call them. Every
    method except `withdraw` raises SettingsError when somebody else could have written there, and
    OSError when the file system refuses.
    """

    def __init__(self, path: Path, mesh: str) -> None:
        self._path = path
        self._mesh = mesh
        self._mine: str | None = None
        self._withdrawn = False
        self._lock = threading.Lock()

    def announce(self, address: Address) -> None:
        """Write (or touch) this process's entry and sweep away those of dead processes.

        Creates a missing directory. Does nothing once the entry was withdrawn.
        """
        entry = HostEntry(
            address=address,
            mesh=self._mesh,
            pid=os.getpid(),
            started=_process_start(os.getpid()),
            pid_namespace=_namespace("pid"),
            net_namespace=_namespace("net"),
        )
        with self._lock:
            if self._withdrawn:
                return
            with self._opened(create=True) as directory:
                _write(directory, entry)
                if self._mine not in (None, entry.name):  # it has moved to another port
                    with suppress(OSError):
                        os.unlink(str(self._mine), dir_fd=directory)
                self._mine = entry.name
                for file in _files(directory, _tag(self._mesh), unfinished=True):
                    if file.is_stale:
                        with suppress(OSError):
                            os.unlink(file.name, dir_fd=directory)

    def withdraw(self) -> None:
        """Remove this process's entry. Does not raise: others sweep an entry that stays."""
        with self._lock:
            self._withdrawn = True
            if self._mine is None:
                return
            with suppress(OSError, SettingsError), self._opened(create=False) as directory:
                os.unlink(self._mine, dir_fd=directory)
            self._mine = None

    def contacts(self) -> list[Address]:
        """Addresses of the other living members of this mesh on this host. Only reads.

        Empty when the directory does not exist.
        """
        try:
            with self._opened(create=False) as directory:
                return [
                    file.entry.address
                    for file in _files(directory, _tag(self._mesh), unfinished=False)
                    if self._is_contact(file)
                ]
        except FileNotFoundError:
            return []

    def entries(self) -> list[DirectoryEntry]:
        """Everything that members of all meshes have written, those of this mesh first. Only reads.

        Empty when the directory does not exist.
        """
        try:
            with self._opened(create=False) as directory:
                return [
                    DirectoryEntry(
                        self._path / FOLDER / file.name,
                        file.entry.mesh,
                        file.entry.address.member_id(),
                        file.entry.pid,
                        file.is_stale,
                    )
                    for file in _files(directory, _tag(self._mesh), unfinished=False)
                ]
        except FileNotFoundError:
            return []

    def _is_contact(self, file: _File) -> bool:
        entry = file.entry
        if entry.mesh != self._mesh or file.name == self._mine or file.is_stale:
            return False
        # The loopback address of another container or host leads nowhere.
        here = _namespace("net")
        return not entry.address.is_loopback or entry.net_namespace in (here, _without_boot(here))

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        with (
            private_directory(self._path, create=create, key=_KEY) as outer,
            private_subdirectory(
                outer, FOLDER, create=create, key=_KEY, within=self._path
            ) as inner,
        ):
            yield inner


def _tag(mesh: str) -> str:
    return hashlib.blake2b(mesh.encode(), digest_size=6).hexdigest()


def _write(directory: int, entry: HostEntry) -> None:
    temporary = f".{entry.name}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        try:
            data = entry.encode()
            if os.write(file, data) != len(data):
                raise OSError(errno.ENOSPC, "the entry was not written whole", temporary)
        finally:
            os.close(file)
        os.rename(temporary, entry.name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        # Nobody would remove a torn file later.
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _files(directory: int, first: str, *, unfinished: bool) -> Iterator[_File]:
    """Entries, first those whose names begin with `first`. Opens at most MAX_ENTRIES files."""
    names = []
    for name in os.listdir(directory):
        match = _NAME.fullmatch(name)
        if match is not None and (unfinished or match["unfinished"] is None):
            names.append((not match["name"].startswith(first), name, match))
    for _, name, match in sorted(names, key=lambda one: one[:2])[:MAX_ENTRIES]:
        read = _read(directory, name)
        if read is not None and read[0].name == match["name"]:
            yield _File(name, *read, match["unfinished"] is not None)


def _read(directory: int, name: str) -> tuple[HostEntry, float] | None:
    """The entry and its age in seconds; None if the file has no entry or cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            return None
        entry = HostEntry.decode(os.read(file, MAX_BYTES))
    except OSError:
        return None
    finally:
        os.close(file)
    return None if entry is None else (entry, time.time() - state.st_mtime)


def _is_gone(entry: HostEntry, age_s: float) -> bool:
    # Where no namespace can be named, nothing shows that a process would be visible from here.
    if entry.pid_namespace != _namespace("pid") or not entry.pid_namespace:
        return age_s > FOREIGN_TTL_S
    return entry.pid <= 0 or _process_start(entry.pid) != entry.started


def _namespace(kind: str) -> str:
    """Identifies the kernel namespace of this process; empty where that is not known.

    The first namespaces of all kernels have the same number, and hosts may share a directory. So
    the kernel's own name belongs to it: `pid:[4026531836]@<boot id>`.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{Path(f'/proc/self/ns/{kind}').readlink()}@{boot}"
    except (OSError, UnicodeError):
        return ""


def _without_boot(namespace: str) -> str:
    """The name that members which know no boot id give to a namespace."""
    return namespace.partition("@")[0]


def _process_start(pid: int) -> str:
    """When a process started, in the kernel's own words, so that a recycled pid is recognised.

    Empty if there is no such process, or only a zombie, which has a pid but no socket any more.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
