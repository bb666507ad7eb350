"""What one host finds out: who is at an address, where seeds lead, who has met here."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.meshes import OWN_MESH

from netmesh import (
    Meeting,
    Mesh,
    MeshSettings,
    SettingsError,
    directory_entries,
    generate_key,
    meet_all,
    resolve_seeds,
)

KEY = generate_key()
Start = Callable[..., Mesh]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Mesh] = []

    def make(**settings: object) -> Mesh:
        values: dict[str, object] = {"directory": tmp_path / "d", "advertise": "127.0.0.1"}
        started.append(Mesh.start(mine(**values | settings), {}))
        return started[-1]

    yield make
    for mesh in started:
        mesh.close()


def mine(**settings: object) -> MeshSettings:
    return MeshSettings.model_validate({"name": OWN_MESH} | settings)


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "key"])
def test_a_member_says_who_it_is_and_what_its_clock_shows(start: Start, key: str | None) -> None:
    mesh = start(key=key)
    hour_ahead = lambda: time.time() + 3600.0  # noqa: E731
    (met,) = meet_all(mine(key=key), [mesh.id], HANG_S, wall_s=hour_ahead)
    assert (met.meeting, met.member, met.mesh) == (Meeting.MEMBER, mesh.id, OWN_MESH)
    assert (met.generation, met.size, met.protocol) == (mesh.generation, 1, 2)
    assert met.ahead_s is not None
    assert abs(met.ahead_s + 3600.0) <= met.unsure_s + 0.01


@pytest.mark.parametrize(
    ("theirs", "ours", "meeting"),
    [
        ({"key": KEY}, {}, Meeting.KEY_ONLY_THERE),
        ({}, {"key": KEY}, Meeting.KEY_ONLY_HERE),
        ({"key": KEY}, {"key": generate_key()}, Meeting.OTHER_KEY),
        ({"key": KEY}, {"key": KEY, "name": "mine"}, Meeting.OTHER_MESH),
        ({"key": KEY, "name": "theirs"}, {"key": KEY}, Meeting.OTHER_KEY),
        ({}, {"name": "mine"}, Meeting.OTHER_MESH),
    ],
)
def test_why_a_member_is_none_of_ours(
    start: Start, theirs: dict[str, object], ours: dict[str, object], meeting: Meeting
) -> None:
    mesh = start(**theirs)
    (met,) = meet_all(mine(**ours), [mesh.id], HANG_S, other_meshes=[OWN_MESH])
    assert met.meeting is meeting
    assert met.mesh == (OWN_MESH if meeting is Meeting.OTHER_MESH else "")


def test_who_is_no_member_at_all() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.create_server(("127.0.0.1", 0)) as closed,
    ):
        places = [f"127.0.0.1:{one.getsockname()[1]}" for one in (silent, closed)]
        closed.close()
        met = meet_all(mine(), [*places, "node-7:1", places[1]], HANG_S)
    assert [one.meeting for one in met] == [
        Meeting.STRANGER,
        Meeting.REFUSED,
        Meeting.UNREACHABLE,
    ]
    assert [one.address for one in met] == [*places, "node-7:1"]


def test_without_time_nobody_is_asked() -> None:
    (met,) = meet_all(mine(), ["127.0.0.1:9"], 0.0)
    assert met.meeting is Meeting.UNASKED


def test_seeds_lead_somewhere_or_say_why_not(tmp_path: Path) -> None:
    listed, empty = tmp_path / "seeds", tmp_path / "empty"
    listed.write_text("127.0.0.1:7\n127.0.0.1:8\n")
    empty.touch()
    slow = "exec:sleep 60"
    seeds = ("127.0.0.1:5", f"file:{listed}", f"file:{empty}", f"file:{tmp_path / 'none'}", slow)
    found = resolve_seeds(mine(seeds=seeds), 2.0)
    assert [one.addresses for one in found] == [
        ("127.0.0.1:5",),
        ("127.0.0.1:7", "127.0.0.1:8"),
        (),
        (),
        (),
    ]
    problems = [one.problem for one in found]
    assert problems[:3] == ["", "", "it leads to no address"]
    assert "No such file" in problems[3] and "within 2 s" in problems[4]
    assert resolve_seeds(mine(), 1.0) == ()
    with pytest.raises(SettingsError, match="MESH_KEY_FILE"):
        resolve_seeds(mine(seeds=("10.0.0.1",)), 1.0)


def test_the_directory_tells_the_living_from_the_gone(start: Start, tmp_path: Path) -> None:
    settings = mine(directory=tmp_path / "d")
    assert directory_entries(settings) == ()
    mesh = start()
    other = start(name="other")
    (entry,) = [one for one in directory_entries(settings) if one.mesh == OWN_MESH]
    assert (entry.member, entry.pid, entry.stale) == (mesh.id, os.getpid(), False)
    gone = entry.path.read_bytes().replace(b'"started":"', b'"started":"0')
    mesh.close()
    entry.path.write_bytes(gone)
    assert [(one.member, one.mesh, one.stale) for one in directory_entries(settings)] == [
        (mesh.id, OWN_MESH, True),
        (other.id, "other", False),
    ]
    assert entry.path.read_bytes() == gone
