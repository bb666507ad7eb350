"""What a recorder writes of a look: what has changed, and now and then everything. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mesh_inspect.recording.lines import step_line
from netmesh import Member, MemberId

Mark: TypeAlias = tuple[int, int, int, int]
"""Generation, incarnation, status and version: another record has another."""


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """When a recorder writes what has not changed."""

    share: float = 4.0
    """A keyframe is written when the steps since the last one have so many times its bytes. So
    keyframes are at most a fifth of a file, and to find a time takes the reading of five."""
    keyframe_s: float = 600.0
    """Or after so many seconds in which something changed."""
    beat_s: float = 60.0
    """A step without news says that the recorder was there: a quiet mesh is not a dead recorder."""


class Track:
    """The lines of one recording, look by look."""

    def __init__(self, at: float, settings: TrackSettings | None = None) -> None:
        """`at` is the time in the head: seconds since the epoch."""
        self._settings = settings or TrackSettings()
        self._marks: dict[MemberId, Mark] = {}
        self._silence: str | None = None
        self._at = at
        self._written_at = at
        self._whole_at: float | None = None
        self._whole_bytes = 0
        self._bytes = 0
        """Since the last keyframe."""

    def seen(self, at: float, members: Sequence[Member]) -> bytes | None:
        """The line for a look at that time; None: nothing is to be written."""
        at = self._now(at)
        marks = {member.id: _mark(member) for member in members}
        changed = [one for one in members if self._marks.get(one.id) != marks[one.id]]
        gone = [one for one in self._marks if one not in marks]
        news = bool(changed or gone or self._silence is not None)
        if not news and at - self._written_at < self._settings.beat_s:
            return None
        self._marks, self._silence = marks, None
        if news and self._whole_is_due(at):
            line = step_line(at, members, whole=True)
            self._whole_at, self._whole_bytes, self._bytes = at, len(line), 0
        else:
            line = step_line(at, changed, gone)
            self._bytes += len(line)
        self._written_at = at
        return line

    def silent(self, at: float, why: str) -> bytes | None:
        """The line for a look that nobody answered; None: nothing is to be written."""
        at = self._now(at)
        if self._whole_at is None:
            line = step_line(at, (), whole=True, silence=why)
            self._whole_at, self._whole_bytes = at, len(line)
        elif self._silence == why and at - self._written_at < self._settings.beat_s:
            return None
        else:
            line = step_line(at, (), silence=why)
        self._silence, self._written_at = why, at
        return line

    def end(self, at: float) -> bytes:
        """The last line: until then nothing more had changed."""
        return step_line(self._now(at), (), silence=self._silence)

    def _now(self, at: float) -> float:
        """Time goes only forward, whatever is done to the clock."""
        self._at = max(self._at, at)
        return self._at

    def _whole_is_due(self, at: float) -> bool:
        settings = self._settings
        return (
            self._whole_at is None
            or self._bytes > settings.share * self._whole_bytes
            or at - self._whole_at >= settings.keyframe_s
        )


def _mark(member: Member) -> Mark:
    return (member.generation, member.incarnation, int(member.status), member.version)
