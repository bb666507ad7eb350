"""Members in processes of their own that are killed, stopped, forked and kept busy.

Slow: sixteen interpreters have to start on however few cores there are.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .support import MemberProcess, until

pytestmark = pytest.mark.slow

Spawn = Callable[..., MemberProcess]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts members that share a directory; none of them outlives the test."""
    spawned: list[MemberProcess] = []

    def make(advert: object = None, **settings: object) -> MemberProcess:
        settings = {"MESH_DIRECTORY": str(tmp_path / "netmesh"), **settings}
        member = MemberProcess(settings, advert, log=tmp_path / "log")
        spawned.append(member)
        return member

    yield make
    for member in spawned:
        member.end()


def all_alive(members: list[MemberProcess]) -> bool:
    return all(list(member.statuses().values()) == ["ALIVE"] * len(members) for member in members)


def seconds_until_all_see(members: list[MemberProcess], gone: str, status: str) -> float:
    """Every member is asked until it says so; asking one takes well under a millisecond."""
    started = time.monotonic()
    waiting = list(members)
    while waiting:
        assert time.monotonic() - started < 10, f"{len(waiting)} never saw it"
        waiting = [member for member in waiting if member.statuses().get(gone) != status]
        time.sleep(0.005)
    return time.monotonic() - started


@pytest.mark.timeout(120)
def test_a_killed_one_of_sixteen_is_known_dead_to_all_within_a_second(spawn: Spawn) -> None:
    members = [spawn() for _ in range(16)]
    until(lambda: all_alive(members), 60)
    for _ in range(3):
        victim = members.pop()
        gone = victim.id
        victim.kill()
        took = seconds_until_all_see(members, gone, "DEAD")
        print(f"known to all {len(members)} after {took * 1000:.0f} ms")
        assert took < 1.0
        until(
            lambda: all(
                sorted(member.statuses().values()) == ["ALIVE"] * len(members)
                + ["DEAD"] * (16 - len(members))
                for member in members
            )
        )  # fmt: skip


@pytest.mark.timeout(120)
def test_a_busy_process_is_stalled_and_not_buried(spawn: Spawn) -> None:
    members = [spawn() for _ in range(4)]
    until(lambda: all_alive(members), 60)
    busy = members.pop()
    busy.tell("hog 5")
    assert seconds_until_all_see(members, busy.id, "STALLED") < 4.0
    assert busy.answer(20) == "ok"
    assert seconds_until_all_see(members, busy.id, "ALIVE") < 3.0
    assert list(busy.statuses().values()) == ["ALIVE"] * 4


@pytest.mark.timeout(120)
def test_a_stopped_process_is_stalled_and_comes_back(spawn: Spawn) -> None:
    members = [spawn() for _ in range(3)]
    until(lambda: all_alive(members), 60)
    stopped = members.pop()
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        assert seconds_until_all_see(members, stopped.id, "STALLED") < 4.0
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert seconds_until_all_see(members, stopped.id, "ALIVE") < 3.0


@pytest.mark.timeout(120)
def test_a_forked_child_does_not_keep_its_dead_parent_alive(spawn: Spawn, tmp_path: Path) -> None:
    members = [spawn() for _ in range(3)]
    until(lambda: all_alive(members), 60)
    parent = members.pop()
    child = parent.ask(f"fork {tmp_path / 'done'}")
    try:
        parent.kill()
        assert seconds_until_all_see(members, parent.id, "DEAD") < 3.0
        os.kill(child, 0)  # and the child is still there
    finally:
        (tmp_path / "done").touch()


@pytest.mark.timeout(120)
def test_closing_among_dead_peers_takes_less_than_a_second(spawn: Spawn) -> None:
    members = [spawn() for _ in range(6)]
    until(lambda: all_alive(members), 60)
    for member in members[2:]:
        member.kill()
    assert members[0].ask("leave") < 1.0
    assert members[1].ask("close") < 1.0


@pytest.mark.timeout(120)
def test_a_process_that_ends_normally_says_goodbye(spawn: Spawn) -> None:
    a, b = spawn(), spawn()
    until(lambda: all_alive([a, b]), 60)
    assert b.process.stdin is not None
    b.process.stdin.close()  # its main loop ends; nobody calls leave()
    gone = b.id
    until(lambda: a.statuses().get(gone) == "LEFT", 5)
    b.process.wait(5)
    assert b.process.returncode == 0
