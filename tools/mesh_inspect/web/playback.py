"""Shows a recording as if it happened now."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mesh_inspect.recording.reader import Recording, Tape
from mesh_inspect.view.changes import Happening
from mesh_inspect.view.rows import AdvertReader, rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.picture import MeshPicture, PictureChange, difference, picture_of
from mesh_inspect.web.playhead import Playhead
from mesh_inspect.web.settings import WebSettings


class Playback:
    """The mesh as it was, at the time where the playhead is."""

    def __init__(
        self,
        recording: Recording,
        happened: Sequence[Happening],
        broadcast: Broadcast,
        clock: Callable[[], float],
        settings: WebSettings,
    ) -> None:
        """`happened`: the whole time line. `clock` goes only forward, in seconds."""
        self._tape = Tape(recording)
        self._happened = happened
        self._times = [one.at for one in happened]
        self._read = AdvertReader()
        self._broadcast = broadcast
        self._clock = clock
        self._settings = settings
        self._head = Playhead(recording.begin, recording.to, recording.begin, clock())
        self._order = asyncio.Lock()
        """Held while a picture is made: the tape is at one place."""
        self._steered = asyncio.Event()
        self._shown = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mesh-inspect-replay")
        broadcast.replay = self.told

    def told(self) -> dict[str, object]:
        """Where the playhead is."""
        return self._head.told(self._clock())

    def want(self) -> None:
        """Somebody begins to watch: a recording goes on anyway."""

    async def current(self) -> MeshPicture:
        """The mesh where the playhead is."""
        await self._shown.wait()
        assert self._broadcast.picture is not None
        return self._broadcast.picture

    async def steer(
        self, *, paused: bool | None = None, speed: float | None = None, at: float | None = None
    ) -> dict[str, object]:
        """Move the playhead. Returns where it is then; readers have the new picture."""
        async with self._order:
            now = self._clock()
            before = self._head.at(now)
            self._head = self._head.steered(now, paused=paused, speed=speed, at=at)
            await self._show(jumps=self._head.at(now) != before)
            told = self.told()
            self._broadcast.tell("replay", told)
        self._steered.set()
        return told

    async def run(self) -> None:
        """Play for ever. Raises `RecordingError` when the file is not any more what it was."""
        try:
            while True:
                async with self._order:
                    await self._show(jumps=False)
                    if self._head.ended(self._clock()):
                        self._head = self._head.steered(self._clock(), paused=True)
                        self._broadcast.tell("replay", self.told())
                pause_s = None if self._head.paused else self._settings.period_s
                try:
                    await asyncio.wait_for(self._steered.wait(), pause_s)
                except TimeoutError:
                    continue
                self._steered.clear()
        finally:
            self._thread.shutdown()
            self._tape.close()

    async def _show(self, *, jumps: bool) -> None:
        """Show the mesh where the playhead is."""
        before = self._broadcast.picture
        at = self._head.at(self._clock())
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(self._thread, self._picture, at, before)
        passed = bisect_right(self._times, at)
        if before is None or jumps:
            self._broadcast.happened.clear()
            self._broadcast.happened.extend(self._happened[:passed][-self._settings.happenings :])
            self._broadcast.jump(picture)
        else:
            told = difference(before, picture)
            since = bisect_right(self._times, before.at)
            told = PictureChange(told.changed, told.gone, list(self._happened[since:passed]))
            self._broadcast.show(picture, told)
        self._shown.set()

    def _picture(self, at: float, before: MeshPicture | None) -> MeshPicture:
        moment = self._tape.wind(at)
        members = tuple(sorted(moment.members, key=lambda member: member.id))
        rows = rows_of(members, read=self._read)
        self._read.next_look()
        return picture_of(Sight(at, members, rows, moment.silence), before)
