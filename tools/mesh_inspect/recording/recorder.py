"""Records a mesh: looks, and writes what has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mesh_inspect.recording.track import Track
from mesh_inspect.recording.writer import RecordingFile, RecordingFull
from netmesh import Member, MeshError


class RecordedSight(Protocol):
    """One look: `mesh_inspect.watching.Sight`."""

    @property
    def at(self) -> float: ...
    @property
    def members(self) -> tuple[Member, ...]: ...
    @property
    def silence(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class RecorderMeans:
    """What a recorder uses of the world."""

    look: Callable[[], RecordedSight]
    """Raises `MeshError` until somebody has answered."""
    monotonic: Callable[[], float]
    wall_s: Callable[[], float]
    """Seconds since the epoch."""
    stopped_within: Callable[[float], bool]
    """Waits for so many seconds, or until somebody wants an end: then it is true."""


def record(
    means: RecorderMeans, file: RecordingFile, *, interval_s: float, for_s: float | None
) -> bool:
    """Record until somebody wants an end, or for so many seconds. False: the file is full.

    What comes out is readable whenever it ends. Raises OSError when the file cannot be written.
    """
    track = Track(means.wall_s())
    began = means.monotonic()
    full = False
    while True:
        due = means.monotonic() + interval_s
        try:
            sight = means.look()
        except MeshError as error:
            line = track.silent(means.wall_s(), str(error))
        else:
            line = (
                track.seen(sight.at, sight.members)
                if sight.silence is None
                else track.silent(sight.at, sight.silence)
            )
        try:
            file.write(line)
        except RecordingFull:
            full = True
            break
        wait_s = due - means.monotonic()
        if for_s is not None:
            wait_s = min(wait_s, began + for_s - means.monotonic())
        if means.stopped_within(wait_s):
            break
        if for_s is not None and means.monotonic() - began >= for_s:
            break
    file.write(track.end(means.wall_s()), last=True)
    return not full
