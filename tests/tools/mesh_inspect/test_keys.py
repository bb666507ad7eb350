"""`mesh-inspect keys`: who serves by which key during a rotation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.meshes import OWN_MESH

from mesh_inspect import cli
from netmesh import Mesh, MeshSettings, generate_key


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in [key for key in os.environ if key.startswith("NETLOADER_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "d"))
    return tmp_path / "d"


def test_members_are_counted_by_the_key_they_serve_by(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, other = (generate_key() for _ in range(3))
    started = [
        Mesh.start(
            MeshSettings(
                name=OWN_MESH, key=",".join(keys), directory=directory, advertise="127.0.0.1"
            ),
            {},
        )
        for keys in ((old, new), (old, new), (new, old), (other, old, new))
    ]
    try:
        assert started[0].wait(lambda members: len(members) == 4, 20)
        monkeypatch.setenv("NETLOADER_MESH_KEY", f"{old},{new}")
        assert cli.main(["keys", "--seed", started[0].id]) == 0
    finally:
        for mesh in started:
            mesh.close()
    out = capsys.readouterr().out
    first, second, rest, member = out.splitlines()
    assert first.startswith("key 1 (") and first.endswith("): 2 members serve by it")
    assert second.startswith("key 2 (") and second.endswith("): 1 members serve by it")
    assert (rest, member) == ("none of these, or no answer: 1 members", f"  {started[3].id}")
    assert old not in out and new not in out


def test_without_a_mesh_or_a_key_it_says_so(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["keys", "--timeout", "0.1"]) == 3
    with Mesh.start(MeshSettings(name=OWN_MESH, directory=directory), {}):
        assert cli.main(["keys"]) == 64
    assert "MESH_KEY_FILE" in capsys.readouterr().err
