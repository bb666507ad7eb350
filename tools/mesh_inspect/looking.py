"""What every command shares: settings from options, the look at a mesh, and words on stderr."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from mesh_inspect.output.text import escape
from netloader.program import ENV_PREFIX
from netloader.program import PROGRAM as LOADER
from netmesh import (
    Member,
    MemberId,
    MeshSettings,
    NoMeshError,
    Observer,
    SettingsError,
    Status,
)

PROGRAM: Final = "mesh-inspect"
COMPLETE: Final = "_MESH_INSPECT_COMPLETE"
"""Variable that a shell sets which wants completions; click's name for it."""
DEFAULT_TIMEOUT_S: Final = 3.0
WAIT_TIMEOUT_S: Final = 30.0
DOCTOR_TIMEOUT_S: Final = 30.0
"""Seconds for all checks together."""


class Observing(Protocol):
    """Looks at a mesh, as a `netmesh.Observer` does."""

    @property
    def answered_by(self) -> str: ...

    def look(self, timeout_s: float = ...) -> tuple[Member, ...]: ...

    def forget(self, member: MemberId, timeout_s: float = ...) -> Status | None: ...

    def close(self) -> None: ...


class ObserverOf(Protocol):
    """Makes what looks at a mesh. Raises SettingsError."""

    def __call__(self, settings: MeshSettings, *, seeds_only: bool) -> Observing: ...


def hard_limit() -> int:
    """Up to how many descriptors a process may have; -1 for any number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return -1 if hard == resource.RLIM_INFINITY else hard


@dataclass(frozen=True, slots=True)
class Means:
    """What the commands use of the world."""

    observer: ObserverOf = Observer
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    wall_s: Callable[[], float] = time.time
    """Seconds since the epoch."""
    hard_limit: Callable[[], int] = hard_limit
    """Up to how many descriptors a process on this host may have; -1 for any number."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Which mesh is asked, for how long, and by what means: `--seed`, `--mesh` and `--timeout`."""

    means: Means
    seeds: tuple[str, ...] = ()
    """Only these members are asked. Empty: whom a worker would ask."""
    mesh: str | None = None
    """None: as the environment says."""
    timeout: float | None = None
    """Seconds. None: the command's own."""

    @property
    def timeout_s(self) -> float:
        return DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout

    @property
    def seeds_only(self) -> bool:
        """A user who names a seed wants the answer of that seed, above all when a mesh is split. A
        member on this host would often answer first."""
        return bool(self.seeds)

    @property
    def settings(self) -> MeshSettings:
        """A worker's settings, overridden by the command line. Raises SettingsError, which names
        the option if the value came from one."""
        chosen: dict[str, object] = {}
        if self.mesh is not None:
            chosen["MESH_NAME"] = self.mesh
        if self.seeds:
            chosen["MESH_SEEDS"] = self.seeds
        return MeshSettings.load(chosen, program=LOADER)

    @property
    def fabric(self) -> str:
        """The label that a worker with this environment would have (`FABRIC`); empty: none."""
        return os.environ.get(f"{ENV_PREFIX}FABRIC", "")

    @contextmanager
    def observer(self, *, quiet: bool = False) -> Iterator[Observing]:
        """What looks at the mesh. Warnings of the mesh go to stderr, unless it is quiet. Raises
        SettingsError."""
        with nullcontext() if quiet else log_to_stderr():
            observer = self.means.observer(self.settings, seeds_only=self.seeds_only)
            try:
                yield observer
            finally:
                observer.close()

    def everybody(self) -> tuple[Member, ...]:
        """All members, as one of them sees them. Raises SettingsError and NoMeshError."""
        with self.observer() as observer:
            return observer.look(self.timeout_s)

    def in_words_of_the_command(self, error: SettingsError) -> SettingsError:
        """The error, which names the option if the value came from one."""
        key = error.key
        if key in ("MESH_SEEDS", "seed", "address") and self.seeds:
            key = "--seed"
        elif key == "MESH_NAME" and self.mesh is not None:
            key = "--mesh"
        return SettingsError(key, error.value, error.allowed)


def nobody_answered(error: NoMeshError, settings: MeshSettings, *, seeds_only: bool) -> str:
    """What was tried and what to do, one item a line."""
    alone = settings.key is None and settings.key_file is None and not settings.insecure
    places = [f"seed {seed}" for seed in settings.seeds]
    if not seeds_only:
        if not places and not alone:
            places.append("the scheduler's environment")
        places.append(f"same-host directory {settings.host_directory()}")
    lines = [
        f"no member of mesh {error.mesh!r} answered within {error.timeout_s:g} s",
        f"  looked in: {', '.join(places)}",
        f"  asked: {', '.join(error.tried) or 'nobody, no address was found there'}",
    ]
    if error.__cause__ is not None:
        lines.append(f"  likely reason: {error.__cause__}")
    if alone:
        lines.append("  without a cluster key (NETLOADER_MESH_KEY_FILE) only this host is searched")
    lines.append(
        "  what to do: start a worker with `--load-format netloader`, name a member with "
        "--seed HOST[:PORT], or check that --mesh and the cluster key are those of the workers; "
        "`mesh-inspect doctor` looks for the reason"
    )
    return "\n".join(lines)


def say(message: str) -> None:
    """Print to stderr with every line escaped, because others may have written parts of it."""
    lines = (escape(line) for line in message.split("\n"))
    print(f"{PROGRAM}:", "\n".join(lines), file=sys.stderr)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the mesh's warnings (a seed that does not resolve, an unsafe directory) on stderr."""
    logger, handler = logging.getLogger("netmesh"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
