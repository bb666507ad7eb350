"""Observers: among many contacts that do not answer, and with news about a dead member."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.meshes import OWN_MESH

from netmesh import (
    MemberId,
    MeshSettings,
    NoMeshError,
    SettingsError,
    Status,
    forget,
    generate_key,
    observe,
)
from netmesh.observer import ASK_AT_ONCE

from .support import MemberProcess, until


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[MemberProcess]]:
    settings: dict[str, object] = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(tmp_path / "d"),
        "MESH_KEY": KEY,
        "MESH_ADVERTISE": "127.0.0.1",
    }
    spawned = [MemberProcess(settings, log=tmp_path / "log") for _ in range(4)]
    yield spawned
    for member in spawned:
        member.end()


KEY = generate_key()


def of(member: MemberProcess, key: str = KEY) -> MeshSettings:
    return MeshSettings(name=OWN_MESH, seeds=(member.id,), key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("silent", [False, True])
def test_a_member_behind_many_contacts_that_do_not_answer_is_found(
    members: list[MemberProcess], *, silent: bool
) -> None:
    """Refused at once, or accepted by somebody who says nothing."""
    with ExitStack() as stack:
        places = []
        for _ in range(2 * ASK_AT_ONCE):
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            places.append(f"127.0.0.1:{taken.getsockname()[1]}")
            if not silent:
                taken.close()
        seeds = (*places, members[0].id)
        settings = MeshSettings(name=OWN_MESH, seeds=seeds, key=KEY)  # type: ignore[arg-type]
        seen = observe(settings, 20.0, seeds_only=True)
    assert members[0].id in {member.id for member in seen}


def test_a_member_that_is_silent_at_first_is_asked_again(members: list[MemberProcess]) -> None:
    until(lambda: list(members[0].statuses().values()).count("ALIVE") == 4, 30)
    os.kill(members[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(NoMeshError):
            observe(of(members[0]), 1.5, seeds_only=True)
    finally:
        os.kill(members[0].pid, signal.SIGCONT)
    assert len(observe(of(members[0]), 10.0, seeds_only=True)) == 4


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_operator_removes_a_dead_member_and_nobody_else(members: list[MemberProcess]) -> None:
    until(lambda: list(members[0].statuses().values()).count("ALIVE") == 4, 30)
    seed, gone = of(members[0]), MemberId(members[3].id)
    assert forget(seed, gone, 10.0, seeds_only=True) is Status.ALIVE
    members[3].kill()
    until(lambda: members[0].statuses()[gone] == "DEAD", 20)
    with pytest.raises(NoMeshError):
        forget(of(members[0], generate_key()), gone, 1.0, seeds_only=True)
    assert members[0].statuses()[gone] == "DEAD"
    assert forget(seed, gone, 10.0, seeds_only=True) is Status.LEFT
    until(lambda: all(one.statuses()[gone] == "LEFT" for one in members[:3]), 20)
    assert forget(seed, MemberId("127.0.0.1:9"), 10.0, seeds_only=True) is None


def test_only_addresses_can_be_forgotten() -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        forget(MeshSettings(), MemberId("node-7"), 0.1)
