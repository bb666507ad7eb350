"""What can be wrong with a recording."""

from __future__ import annotations

from pathlib import Path


class RecordingError(Exception):
    """A file that is no recording, or cannot be one."""


class BadLineError(RecordingError):
    """A line of a file is not one of a recording."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}: line {line} is not one of a recording: {reason}")
        self.line = line
