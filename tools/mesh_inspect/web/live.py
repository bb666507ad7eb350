"""Looks at a mesh for all who watch: once a period, and only while somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mesh_inspect.watching import Sight
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.picture import MeshPicture, PictureChange, difference, picture_of
from mesh_inspect.web.settings import WebSettings
from netmesh import MeshError


class Live:
    """The mesh as it is now."""

    def __init__(
        self,
        look: Callable[[], Sight],
        broadcast: Broadcast,
        wall_s: Callable[[], float],
        settings: WebSettings,
    ) -> None:
        """`look` blocks, and raises `MeshError` until somebody has answered; `wall_s` are seconds
        since the epoch."""
        self._look = look
        self._broadcast = broadcast
        self._wall_s = wall_s
        self._settings = settings
        self._wanted = asyncio.Event()
        self._until = float("-inf")
        """Somebody wants to know until then, by the loop's clock."""
        self._looked = asyncio.Condition()
        self._looked_at = float("-inf")
        """When the last look ended, by the loop's clock."""

    def want(self) -> None:
        """Somebody wants to know."""
        self._until = asyncio.get_running_loop().time() + self._settings.grace_s
        self._wanted.set()

    async def current(self) -> MeshPicture:
        """The mesh as it was at most two periods ago, or as it is."""
        self.want()
        clock = asyncio.get_running_loop().time
        oldest = clock() - 2 * self._settings.period_s
        async with self._looked:
            await self._looked.wait_for(lambda: self._looked_at >= oldest)
        assert self._broadcast.picture is not None
        return self._broadcast.picture

    async def run(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "mesh-inspect-look") as thread:
            while True:
                if not self._broadcast.readers and loop.time() >= self._until:
                    self._wanted.clear()
                    await self._wanted.wait()
                began = loop.time()
                before = self._broadcast.picture
                # The event loop answers others while thousands of members are compared.
                picture, changes = await loop.run_in_executor(thread, self._seen, before)
                if (
                    before is not None
                    and before.silence is not None
                    and not before.portraits
                    and picture.silence is None
                ):
                    # Nobody has come: somebody has answered for the first time.
                    self._broadcast.jump(picture)
                else:
                    self._broadcast.show(picture, changes)
                async with self._looked:
                    self._looked_at = loop.time()
                    self._looked.notify_all()
                await asyncio.sleep(max(0.0, began + self._settings.period_s - loop.time()))

    def _seen(self, before: MeshPicture | None) -> tuple[MeshPicture, PictureChange]:
        try:
            sight = self._look()
        except (MeshError, OSError) as error:
            # Nobody has ever answered, or this host has no sockets left.
            if before is not None:
                return replace(before, at=self._wall_s(), silence=str(error)), PictureChange()
            sight = Sight(self._wall_s(), (), (), str(error))
        picture = picture_of(sight, before)
        return picture, PictureChange() if before is None else difference(before, picture)
