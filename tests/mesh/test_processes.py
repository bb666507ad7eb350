"""Members in processes of their own that are killed, stopped, forked and kept busy.

Slow: sixteen members have to find each other on however few cores there are.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fastest import HANG_S, Stopwatch, at_most, fastest_of, took_less
from tests.meshes import OWN_MESH

from .support import MemberProcess, until

pytestmark = pytest.mark.slow

Spawn = Callable[..., MemberProcess]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts members that share a directory; none of them outlives the test."""
    spawned: list[MemberProcess] = []

    def make(advert: object = None, **settings: object) -> MemberProcess:
        own = {"MESH_NAME": OWN_MESH, "MESH_DIRECTORY": str(tmp_path / "netmesh")}
        member = MemberProcess(own | settings, advert, log=tmp_path / "log")
        spawned.append(member)
        return member

    yield make
    for member in spawned:
        member.end()


def all_alive(members: list[MemberProcess]) -> bool:
    return all(list(member.statuses().values()) == ["ALIVE"] * len(members) for member in members)


def all_see_within(limit_s: float, members: list[MemberProcess], gone: str, status: str) -> float:
    """Every member is asked until it says so; asking one takes well under a millisecond."""
    watch = Stopwatch(*(member.pid for member in members))
    started = time.monotonic()
    waiting = list(members)
    while waiting:
        assert time.monotonic() < started + HANG_S, f"{len(waiting)} never saw it"
        waiting = [member for member in waiting if member.statuses().get(gone) != status]
        time.sleep(0.005)
    took_less(watch.seconds(), limit_s)
    return time.monotonic() - started


def assert_stalled(members: list[MemberProcess], slow: str) -> None:
    assert {member.statuses()[slow] for member in members} == {"STALLED"}


def test_a_killed_one_of_sixteen_is_known_dead_to_all_within_a_second(spawn: Spawn) -> None:
    members = [spawn() for _ in range(16)]
    until(lambda: all_alive(members))

    @fastest_of(3)
    def one_is_killed() -> None:
        victim = members.pop()
        gone = victim.id
        victim.kill()
        took = all_see_within(1.0, members, gone, "DEAD")
        print(f"known to all {len(members)} after {took * 1000:.0f} ms")

    for _ in range(3):
        one_is_killed()
        until(
            lambda: all(
                sorted(member.statuses().values()) == ["ALIVE"] * len(members)
                + ["DEAD"] * (16 - len(members))
                for member in members
            )
        )  # fmt: skip


def test_a_process_that_holds_the_interpreter_lock_is_stalled_and_not_buried(spawn: Spawn) -> None:
    members = [spawn() for _ in range(4)]
    until(lambda: all_alive(members))
    busy = members.pop()
    gone = busy.id
    busy.tell("hog")
    held = time.monotonic()
    all_see_within(4.0, members, gone, "STALLED")
    until(lambda: assert_stalled(members, gone) or time.monotonic() > held + 5)
    busy.tell("")
    assert busy.answer() == "ok"
    all_see_within(3.0, members, gone, "ALIVE")
    assert list(busy.statuses().values()) == ["ALIVE"] * 4


def test_a_stopped_process_is_stalled_and_comes_back(spawn: Spawn) -> None:
    members = [spawn() for _ in range(3)]
    until(lambda: all_alive(members))
    stopped = members.pop()
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        all_see_within(4.0, members, stopped.id, "STALLED")
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    all_see_within(3.0, members, stopped.id, "ALIVE")


def test_a_forked_member_leaves_when_its_process_ends(spawn: Spawn) -> None:
    parent, witness = spawn(), spawn()
    until(lambda: all_alive([parent, witness]))
    assert parent.ask("visit") == 0
    until(lambda: sorted(witness.statuses().values()) == ["ALIVE", "ALIVE", "LEFT"])


def test_a_forked_child_does_not_keep_its_dead_parent_alive(spawn: Spawn, tmp_path: Path) -> None:
    members = [spawn() for _ in range(3)]
    until(lambda: all_alive(members))
    parent = members.pop()
    child = parent.ask(f"fork {tmp_path / 'done'}")
    try:
        parent.kill()
        all_see_within(3.0, members, parent.id, "DEAD")
        os.kill(child, 0)  # and the child is still there
    finally:
        (tmp_path / "done").touch()


def test_closing_among_dead_peers_takes_less_than_a_second(spawn: Spawn) -> None:
    members = [spawn() for _ in range(6)]
    until(lambda: all_alive(members))
    for member in members[2:]:
        member.kill()
    for member, farewell in zip(members, ("leave", "close"), strict=False):
        with at_most(1.0, member.pid):
            member.ask(farewell)


def test_a_process_that_ends_normally_says_goodbye(spawn: Spawn) -> None:
    a, b = spawn(), spawn()
    until(lambda: all_alive([a, b]))
    assert b.process.stdin is not None
    b.process.stdin.close()  # its main loop ends; nobody calls leave()
    gone = b.id
    until(lambda: a.statuses().get(gone) == "LEFT")
    b.process.wait(HANG_S)
    assert b.process.returncode == 0
