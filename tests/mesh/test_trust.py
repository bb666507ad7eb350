"""Whom members talk to: keys, names of meshes, addresses, and folders that others could change."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.free_ports import free_port

from netmesh import (
    Member,
    NoMeshError,
    SettingsError,
    Status,
    generate_key,
    observe,
)

from .started import Start, observing, size
from .support import until


def test_without_a_key_nothing_leaves_loopback(start: Start) -> None:
    for settings in (
        {"seeds": ("10.0.0.1",)},
        {"seeds": ("dns://mesh.example",)},
        {"advertise": "10.0.0.1"},
    ):
        with pytest.raises(SettingsError, match="MESH_KEY_FILE"):
            start(**settings)


def test_insecure_names_the_risk(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        start(insecure=True, advertise="127.0.0.1")
    assert "forge" in caplog.text


def test_an_own_address_with_a_port_that_nobody_listens_on_is_told(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port(1)
    start(advertise=f"127.0.0.1:{port}", port=port)
    assert "forwards" not in caplog.text
    start(advertise=f"127.0.0.1:{port + 1}")
    assert f"MESH_ADVERTISE=127.0.0.1:{port + 1} names an address of this host" in caplog.text


def test_an_unsafe_directory_stops_the_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(SettingsError, match="MESH_DIRECTORY"):
        start(directory=tmp_path / "open")


def open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


def owned_by_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a directory away")
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)


def link_elsewhere(path: Path) -> None:
    path.symlink_to("/somewhere")


def plain_file(path: Path) -> None:
    path.write_text("kept")


@pytest.mark.parametrize("take", [open_to_others, owned_by_another, link_elsewhere, plain_file])
def test_the_default_directory_of_somebody_else_costs_a_warning(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    take: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    default = tmp_path / f"netmesh-{os.geteuid()}"
    take(default)
    before = default.lstat()
    a = start(directory=None)
    b = start(seeds=(a.id,), directory=None)
    assert a.wait(size(2), 10) and b.wait(size(2), 10)
    until(lambda: caplog.text.count(str(default)) >= 2)
    told = [one.getMessage() for one in caplog.records if str(default) in one.getMessage()]
    assert len(told) == 2  # one for each member
    assert all("MESH_DIRECTORY" in line and "seeds still work" in line for line in told)
    assert default.lstat() == before
    assert not default.is_dir() or list(default.iterdir()) == []


def test_the_default_directory_is_used_once_it_is_safe(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    default = tmp_path / f"netmesh-{os.geteuid()}"
    open_to_others(default)
    a, b = start(directory=None), start(directory=None)
    default.chmod(0o700)
    assert a.wait(size(2), 30) and b.wait(size(2), 30)


def test_the_key_decides_who_is_in(start: Start) -> None:
    key, wrong = generate_key(), generate_key()
    local = {"advertise": "127.0.0.1"}
    a, b = start(key=key, **local), start(key=key, **local)
    assert a.wait(size(2), HANG_S)
    assert b.wait(size(2), HANG_S)
    strangers = [start(key=wrong, seeds=(a.id,), **local), start(seeds=(a.id,), **local)]
    for stranger in strangers:
        assert not stranger.wait(size(2), 1.0)
    assert len(a.members()) == 2
    with pytest.raises(NoMeshError):
        observe(observing(seeds=(a.id,), key=wrong), 0.5)
    assert len(observe(observing(seeds=(a.id,), key=key), HANG_S)) == 2


def test_keys_rotate_without_downtime(start: Start) -> None:
    old, new = generate_key(), generate_key()
    local = {"advertise": "127.0.0.1"}
    members = [start(key=key, **local) for key in (f"{old},{new}", f"{new},{old}", f"{old},{new}")]
    for mesh in members:
        assert mesh.wait(size(3), HANG_S)


def test_keys_rotate_while_everybody_runs(start: Start, tmp_path: Path) -> None:
    old, new = generate_key(), generate_key()
    files = [tmp_path / f"key{number}" for number in range(4)]
    for file in files:
        file.write_text(old)
    members = [start(key_file=file, advertise="127.0.0.1", read_key_again_s=0.05) for file in files]
    assert all(mesh.wait(size(4), HANG_S) for mesh in members)
    seen: set[Status] = set()

    def note(found: tuple[Member, ...]) -> bool:
        seen.update(member.status for member in found)
        return False

    for step in (f"{old}\n{new}", f"{new}\n{old}", new, "half-written"):
        for file, mesh in zip(files, members, strict=True):
            file.write_text(step)
            mesh.wait(note, 0.15)
    assert members[0].wait_joined(HANG_S)
    members[0].publish({"after": "rotation"})
    for mesh in members:
        assert mesh.wait(lambda found: any(m.advert.get("after") for m in found), HANG_S)
        assert mesh.wait(size(4), HANG_S)
    assert Status.DEAD not in seen
    assert start(key=new, advertise="127.0.0.1").wait(size(5), HANG_S)
    assert not start(key=old, advertise="127.0.0.1").wait(size(5), 1)
