"""Reads a recording: any time of it, with one mesh in memory and not all of the file.

A look at the whole file when it is opened checks each line, and notes where the keyframes are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from mesh_inspect.recording.errors import BadLineError, RecordingError
from mesh_inspect.recording.lines import (
    MAX_LINE_BYTES,
    LineError,
    RecordedMember,
    RecordedStep,
    RecordingHead,
    head_of,
    step_of,
)
from netmesh import Member


@dataclass(frozen=True, slots=True)
class _LinePlace:
    """Where a line begins."""

    offset: int
    line: int


@dataclass(frozen=True, slots=True)
class Moment:
    """The mesh at a time of the recording."""

    at: float
    """Seconds since the epoch."""
    members: tuple[Member, ...]
    silence: str | None


class Recording:
    """A file, and where in it each keyframe is."""

    def __init__(
        self, path: Path, seen: Callable[[RecordedStep], None] = lambda step: None
    ) -> None:
        """Reads the file once; `seen` is given each step of it. Raises `RecordingError`, and
        OSError."""
        if not S_ISREG(path.stat().st_mode):
            # A pipe would be waited for, and cannot be read twice.
            raise RecordingError(f"{path} is not a plain file")
        self.path = path
        self._places: list[_LinePlace] = []
        self._times: list[float] = []
        with path.open("rb") as file:
            self.head, first = _head(path, file)
            self.to = self.head.at
            step: RecordedStep | None = None
            for place, step in _steps(path, file, first):
                if step.at < self.to:
                    raise BadLineError(path, place.line, f"time goes back to {step.at} in it")
                self.to = step.at
                if step.whole:
                    self._places.append(place)
                    self._times.append(step.at)
                elif not self._places:
                    raise BadLineError(path, place.line, "the first step is not whole")
                seen(step)
        if step is None:
            raise RecordingError(f"{path} holds no look at a mesh")

    @property
    def begin(self) -> float:
        """When the first look was, in seconds since the epoch."""
        return self._times[0]

    def before(self, at: float) -> tuple[float, _LinePlace]:
        """The last keyframe that is not later; else the first."""
        index = max(0, bisect_right(self._times, at) - 1)
        return self._times[index], self._places[index]


class Tape:
    """A recording at one time of it."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._file = recording.path.open("rb")
        self._members: dict[str, RecordedMember] = {}
        self._silence: str | None = None
        self._at = float("-inf")
        """Time of the last step that was taken."""
        self._next: tuple[_LinePlace, RecordedStep] | None = None
        self._steps: Iterator[tuple[_LinePlace, RecordedStep]] = iter(())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def wind(self, at: float) -> Moment:
        """The mesh at that time. Raises `RecordingError` where the file is not what it was."""
        keyframe_at, place = self._recording.before(at)
        if at < self._at or keyframe_at > self._at:
            self._file.seek(place.offset)
            self._steps = _steps(self._recording.path, self._file, place)
            self._next = next(self._steps, None)
            self._at = float("-inf")
        # Before the first look it is shown.
        while self._next is not None and (self._next[1].at <= at or math.isinf(self._at)):
            self._take(self._next[1])
            self._next = next(self._steps, None)
        return Moment(at, tuple(one.at(at) for one in self._members.values()), self._silence)

    def _take(self, step: RecordedStep) -> None:
        if step.whole:
            self._members = {}
        for member in step.members:
            self._members[member.id] = member
        for gone in step.gone:
            self._members.pop(gone, None)
        self._silence = step.silence
        self._at = step.at


def _head(path: Path, file: BinaryIO) -> tuple[RecordingHead, _LinePlace]:
    line = file.readline(MAX_LINE_BYTES)
    try:
        head = head_of(line)
    except LineError as error:
        raise BadLineError(path, 1, str(error)) from None
    return head, _LinePlace(file.tell(), 2)


def _steps(
    path: Path, file: BinaryIO, first: _LinePlace
) -> Iterator[tuple[_LinePlace, RecordedStep]]:
    """The steps from there to the end. A last line without its end was never finished."""
    place = first
    while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
        try:
            yield place, step_of(line)
        except LineError as error:
            raise BadLineError(path, place.line, str(error)) from None
        place = _LinePlace(place.offset + len(line), place.line + 1)
    if len(line) == MAX_LINE_BYTES:
        raise BadLineError(path, place.line, f"it has more than {MAX_LINE_BYTES} bytes")
