"""The same-host directory: members of one user on one machine find each other with no settings.

One small JSON file for each member and mesh in a directory only its owner can enter. Files are
hints: a stale one costs a refused connection. A member that was killed cannot remove its file, so
everybody who reads sweeps away those whose process is gone.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from netmesh.bootstrap.address import Address, numeric_address
from netmesh.core.records import MemberId
from netmesh.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 256
"""Files looked at in one reading: several times the workers of the biggest host."""

MAX_BYTES = 2048
"""An entry is ~200 bytes; a bigger file is not ours."""

FOREIGN_TTL_S = 600.0
"""An entry whose process cannot be seen from here (another container) is swept when it was not
touched for so long; its owner touches it at every bootstrap round (<= 30 s)."""


def default_directory(environ: Mapping[str, str]) -> Path:
    """Where members of this user meet unless told otherwise.

    ``XDG_RUNTIME_DIR`` counts only when it is this user's: ``sudo`` keeps the caller's.
    """
    base = tempfile.gettempdir()
    with suppress(OSError, KeyError):
        if os.stat(environ["XDG_RUNTIME_DIR"]).st_uid == os.geteuid():  # noqa: PTH116
            base = environ["XDG_RUNTIME_DIR"]
    return Path(base) / f"netmesh-{os.geteuid()}"


@dataclass(frozen=True, slots=True)
class _Entry:
    address: Address
    mesh: str
    pid: int
    started: str
    pid_namespace: str
    net_namespace: str


class HostDirectory:
    """The directory as one mesh sees it. Every method may raise ConfigError when somebody else
    could have written there, and OSError when the file system refuses."""

    def __init__(self, path: Path, mesh: str) -> None:
        self._path = path
        self._mesh = mesh
        self._tag = hashlib.blake2b(mesh.encode(), digest_size=6).hexdigest()
        self._mine: str | None = None
        self._withdrawn = False
        self._lock = threading.Lock()

    def announce(self, address: Address) -> None:
        """Write (or touch) this process's entry; does nothing once it was withdrawn."""
        entry = {
            "id": str(address),
            "mesh": self._mesh,
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
            "pid_namespace": _namespace("pid"),
            "net_namespace": _namespace("net"),
        }
        with self._lock:
            if not self._withdrawn:
                self._write(orjson.dumps(entry), address.port)

    def _write(self, entry: bytes, port: int) -> None:
        # Containers that share the directory each have a process 1: the namespace tells them apart.
        place = hashlib.blake2b(_namespace("net").encode(), digest_size=4).hexdigest()
        name = f"{self._tag}-{os.getpid()}-{port}-{place}.json"
        temporary = f".{name}.new"
        with self._opened(create=True) as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                os.write(file, entry)
            finally:
                os.close(file)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        self._mine = name

    def withdraw(self) -> None:
        """Remove this process's entry; quietly when that is impossible, others will sweep it."""
        with self._lock:
            self._withdrawn = True
            if self._mine is None:
                return
            with suppress(OSError, ConfigError), self._opened(create=False) as directory:
                os.unlink(self._mine, dir_fd=directory)
            self._mine = None

    def contacts(self) -> list[Address]:
        """Addresses of the other members of this mesh on this host, dead ones swept away.

        Empty when the directory does not exist.
        """
        found: list[Address] = []
        try:
            with self._opened(create=False) as directory:
                entries = os.listdir(directory)  # noqa: PTH208 - the descriptor that was checked
                names = sorted(name for name in entries if name.endswith(".json"))
                names.sort(key=lambda name: not name.startswith(self._tag))  # ours before others'
                for name in names[:MAX_ENTRIES]:
                    address = self._examine(directory, name)
                    if address is not None:
                        found.append(address)
        except FileNotFoundError:
            return []
        return found

    def _examine(self, directory: int, name: str) -> Address | None:
        entry, age_s = _read(directory, name)
        if entry is None or _is_gone(entry, age_s):
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)
            return None
        if entry.mesh != self._mesh or name == self._mine:
            return None
        if entry.address.is_loopback and entry.net_namespace != _namespace("net"):
            return None  # another container's loopback
        return entry.address

    @contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        """A descriptor of the directory, checked after opening so that nobody can swap it."""
        if create:
            with suppress(FileExistsError):
                self._path.mkdir(mode=0o700, parents=True)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(self._path, flags)
        except NotADirectoryError:  # what O_NOFOLLOW | O_DIRECTORY says to a symbolic link, too
            raise self._refused("a symbolic link or not a directory") from None
        try:
            state = os.fstat(directory)
            if state.st_uid != os.geteuid():
                raise self._refused(f"owned by user {state.st_uid}")
            if stat.S_IMODE(state.st_mode) & 0o077:
                raise self._refused(f"open to others (mode {stat.S_IMODE(state.st_mode):04o})")
            yield directory
        finally:
            os.close(directory)

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            "MESH_DIRECTORY",
            str(self._path),
            f"it is {why}, so others could plant addresses there: remove it, `chmod 700` it, or "
            "name a directory of your own",
        )


def _read(directory: int, name: str) -> tuple[_Entry | None, float]:
    """The entry and its age in seconds; (None, 0) when the file holds no entry."""
    try:
        file = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return None, 0.0
    try:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            return None, 0.0
        raw = orjson.loads(os.read(file, MAX_BYTES))
        address = numeric_address(MemberId(str(raw["id"])))
        if address is None:
            return None, 0.0
        entry = _Entry(
            address=address,
            mesh=str(raw["mesh"]),
            pid=int(raw["pid"]),
            started=str(raw["started"]),
            pid_namespace=str(raw["pid_namespace"]),
            net_namespace=str(raw["net_namespace"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None, 0.0
    else:
        return entry, time.time() - state.st_mtime
    finally:
        os.close(file)


def _is_gone(entry: _Entry, age_s: float) -> bool:
    if entry.pid_namespace != _namespace("pid"):
        return age_s > FOREIGN_TTL_S
    return entry.pid <= 0 or _process_start(entry.pid) != entry.started


def _namespace(kind: str) -> str:
    """Identifies the kernel namespace of this process; empty where there are none."""
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in the kernel's own words, so that a recycled pid is recognised.

    Empty when there is no such process (or a zombie: it holds a pid but no socket any more).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    state, started = fields[0], fields[19]
    return "" if state in "ZX" else started
