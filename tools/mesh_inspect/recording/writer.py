"""Writes a recording."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Final, Self

from mesh_inspect.recording.errors import RecordingError
from mesh_inspect.recording.lines import RecordingHead, head_line

END_BYTES: Final = 8192
"""Kept free for the last line, which has a text of silence at most."""


class RecordingFull(Exception):
    """The next line would make the file larger than it may be."""


class RecordingFile:
    """A file that only its owner can read, written line by line: what was written stays readable
    however the recorder ends."""

    def __init__(self, path: Path, head: RecordingHead, max_bytes: int, *, force: bool) -> None:
        """Raises `RecordingError` for a file that is there, unless `force` is set and it is a
        plain file; and OSError."""
        self.path = path
        self.nbytes = 0
        self._max_bytes = max_bytes
        if force:
            _remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
        except FileExistsError:
            raise RecordingError(
                f"{path} exists: name another file, or overwrite it with --force"
            ) from None
        try:
            self.write(head_line(head))
        except BaseException:
            self.close()
            path.unlink()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, line: bytes | None, *, last: bool = False) -> None:
        """Write a line; None is nothing. Room is kept for the last one. Raises `RecordingFull`, and
        OSError."""
        if line is None:
            return
        if self.nbytes + len(line) > self._max_bytes - (0 if last else END_BYTES):
            raise RecordingFull
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        self.nbytes += len(line)

    def close(self) -> None:
        """End the file."""
        os.close(self._file)


def _remove(path: Path) -> None:
    """Remove a plain file: through a link, or from a device, nothing is removed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not S_ISREG(mode):
        raise RecordingError(f"{path} is not a plain file, so it is not overwritten")
    path.unlink()
