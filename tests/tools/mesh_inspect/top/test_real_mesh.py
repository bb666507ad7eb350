"""A pull in progress, a member that stands still and a dead one: the screen and the command show
what is so within two seconds.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final

import pytest
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.worker.loading.whole_load import FakeEngine, advert, load_with, member, toy
from tests.mesh.support import MemberProcess, until
from tests.meshes import OWN_MESH
from tests.tools.mesh_inspect.support import advert as advert_of
from tests.tools.mesh_inspect.support import holding
from tests.tools.mesh_inspect.top.playing import Player, played

from mesh_inspect import cli
from mesh_inspect.looking import Inquiry, Means
from mesh_inspect.top.looks import looking
from mesh_inspect.top.terminal import Posting
from netloader.worker.process import Worker

WITHIN_S: Final = 2.0

pytestmark = pytest.mark.slow  # real members, and a pull of some seconds


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("NETLOADER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path))


def status(worker: Worker, member: str) -> str:
    """What a worker takes a member for."""
    return next(
        (one.status.name for one in worker.membership.members() if one.id == member), "nobody"
    )


async def shown(player: Player, is_shown: Callable[[list[str]], bool]) -> None:
    """Wait until some line of the screen says so, which counts from now."""
    assert player.pilot is not None
    deadline = time.monotonic() + HANG_S
    with at_most(WITHIN_S):
        while not any(is_shown(line.split()) for line in player.lines):
            assert time.monotonic() < deadline, player.text
            await player.pilot.pause(0.02)


@fastest_of(3)
def test_what_is_so_is_shown_within_two_seconds(tmp_path: Path) -> None:
    others = {"MESH_NAME": OWN_MESH, "MESH_DIRECTORY": str(tmp_path)}
    published = advert_of(holding("org/other"))
    dying, stalling = (
        MemberProcess(others, published, log=tmp_path / f"log{number}") for number in range(2)
    )

    async def scene(player: Player) -> None:
        with looking(Inquiry(Means()), Posting(player.app)):
            await shown(player, lambda words: words[:1] == [stalling.id])
            await player.press("2")
            pulled = pool.submit(load_with, replica, FakeEngine(), toy)
            until(lambda: replica.membership.holding("target") and advert(replica).feeds)
            until(lambda: source.membership.members() and advert(replica).rate)
            await shown(
                player,
                lambda words: (
                    words[:1] == [replica.membership.name]
                    and words[-1] == "pulling"
                    and source.membership.name in words
                    and any(word.endswith("/s") for word in words)
                ),
            )
            # The screen has this process's standard output.
            with redirect_stdout(StringIO()) as printed:
                assert cli.main(["transfers", "-o", "json"]) == 0
            (load,) = json.loads(printed.getvalue())["transfers"]
            assert (load["id"], load["state"]) == (replica.membership.name, "pulling")
            assert 0 < load["held_bytes"] < load["total_bytes"] and load["rate"] > 0
            (fed,) = load["sources"]
            assert (fed["id"], fed["condition"]) == (source.membership.name, "ready")

            await player.press("1")
            dying.kill()
            until(lambda: status(source, dying.id) == "DEAD")
            await shown(player, lambda words: words[:1] == [dying.id] and "dead" in words)
            stalling.process.send_signal(signal.SIGSTOP)
            until(lambda: status(source, stalling.id) == "STALLED")
            await shown(player, lambda words: words[:1] == [stalling.id] and "stalled" in words)
            stalling.process.send_signal(signal.SIGCONT)
            until(lambda: status(source, stalling.id) == "ALIVE")
            await shown(player, lambda words: words[:1] == [stalling.id] and "ready" in words)
            assert pulled.result(HANG_S).right
            await player.press("2")
            await shown(player, lambda words: words == ["nothing", "is", "loading"])

    # A megabyte a second: the pull goes on while the screen is looked at.
    with (
        member(tmp_path, 0, RATE_LIMIT=1_000_000) as source,
        member(tmp_path, 1) as replica,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            assert load_with(source, FakeEngine(), toy).origin == "storage"
            until(lambda: len(source.membership.members()) == 4)
            until(lambda: len(replica.membership.members()) == 4)
            played(scene)
        finally:
            stalling.process.send_signal(signal.SIGCONT)
            dying.end()
            stalling.end()
