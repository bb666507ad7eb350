"""The run as a sequence of lines: always hashed, written or compared on request.

Each event that a member handled is one line, with the virtual time to the nanosecond. Two runs are
the same if all their lines are. The hash shows that in 16 digits; a recorded file shows where two
runs differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import xxhash

FORMAT = "netmesh-sim-trace-1"


class TraceMismatch(AssertionError):
    """A replay differs from the recording."""

    def __init__(self, line: int, recorded: str, replayed: str) -> None:
        super().__init__(f"line {line}: recorded {recorded!r}, replayed {replayed!r}")
        self.line = line


class Trace:
    """Takes lines in; the base class only hashes them."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()
        self.lines = 0

    def add(self, line: str) -> None:
        """One more event."""
        self._hash.update(line.encode())
        self.lines += 1

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all lines so far."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """The run is over."""

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()


class Recorder(Trace):
    """Writes the lines to a file that begins with the parameters of the run."""

    def __init__(self, path: Path, parameters: Mapping[str, object]) -> None:
        super().__init__()
        self._file: IO[str] = path.open("w", encoding="utf-8")
        self._file.write(json.dumps({"format": FORMAT, **parameters}) + "\n")

    def add(self, line: str) -> None:
        """Hash and write."""
        super().add(line)
        self._file.write(line + "\n")

    def close(self) -> None:
        """Finish the file with the hash of everything in it."""
        self._file.write(f"end {self.lines} {self.digest}\n")
        self._file.close()


class Verifier(Trace):
    """Compares each line with a recording. TraceMismatch names the first line that differs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file: IO[str] = path.open(encoding="utf-8")
        self._file.readline()

    def add(self, line: str) -> None:
        """Hash and compare."""
        super().add(line)
        recorded = self._file.readline().rstrip("\n")
        if recorded != line:
            raise TraceMismatch(self.lines + 1, recorded, line)

    def close(self) -> None:
        """Check that the recording ends where the replay does."""
        recorded = self._file.readline().rstrip("\n")
        expected = f"end {self.lines} {self.digest}"
        self._file.close()
        if recorded != expected:
            raise TraceMismatch(self.lines + 2, recorded, expected)


def parameters_of(path: Path) -> dict[str, object]:
    """The parameters of a recording. ValueError if the file is not a recording."""
    with path.open(encoding="utf-8") as file:
        try:
            head = json.loads(file.readline())
        except ValueError as error:
            raise ValueError(f"{path} is not a recorded trace: {error}") from error
    if not isinstance(head, dict) or head.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a recorded trace of format {FORMAT}")
    return head
