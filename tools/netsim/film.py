"""Writes the virtual mesh to a recording, as `mesh-inspect record` would that asks one member.

Nothing of the run depends on it: it draws no random number, and no member takes part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mesh_inspect.recording.lines import RecordingHead
from mesh_inspect.recording.track import Track
from mesh_inspect.recording.writer import RecordingFile
from netloader import __version__
from netmesh.core.member import member_of
from netmesh.core.records import MemberId
from netsim.process import Process
from netsim.world import EPOCH_MS, World

LOOK_S: Final = 1.0
"""Virtual seconds between two looks, as real ones are with `mesh-inspect record`."""

MOST_BYTES: Final = 10**10


class Film:
    """The recording of one world. To be closed."""

    def __init__(self, path: Path) -> None:
        """Raises `RecordingError` if the file is there, and OSError."""
        at = EPOCH_MS / 1000
        head = RecordingHead(mesh="sim", at=at, program=f"netsim {__version__}")
        self._file = RecordingFile(path, head, MOST_BYTES, force=False)
        self._track = Track(at)
        self._world: World | None = None
        self._asked: Process | None = None

    def watch(self, world: World) -> None:
        """Look at that world from now on."""
        self._world = world
        world.after(0.0, self._look)

    def close(self) -> None:
        """End the file, with what is so now."""
        if self._world is not None:
            self._look()
            self._file.write(self._track.end(self._wall_s(self._world)))
        self._file.close()

    def _look(self) -> None:
        world = self._world
        assert world is not None
        at = self._wall_s(world)
        running = world.running()
        if self._asked is None or not self._asked.alive:
            # As an observer goes on with another when its member is gone.
            self._asked = running[0] if running else None
        if self._asked is None:
            self._file.write(self._track.silent(at, "no member runs"))
        else:
            records = [self._asked.machine.record(MemberId(id)) for id in world.processes]
            members = [
                member_of(record, at * 1000, me=False) for record in records if record is not None
            ]
            self._file.write(self._track.seen(at, members))
        world.after(LOOK_S, self._look)

    @staticmethod
    def _wall_s(world: World) -> float:
        return EPOCH_MS / 1000 + world.now


@contextmanager
def filmed(path: Path | None) -> Iterator[Film | None]:
    """A film in that file, closed in the end; None where no file is named."""
    film = None if path is None else Film(path)
    try:
        yield film
    finally:
        if film is not None:
            film.close()
