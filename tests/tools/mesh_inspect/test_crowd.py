"""Two thousand members, each with a model, are shown in less than a second."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fastest import HANG_S, at_most, fastest_of
from tests.forked import start_mesh
from tests.mesh.support import until
from tests.meshes import OWN_MESH

from mesh_inspect import cli
from netmesh import MeshSettings, observe

from .support import advert, holding

MEMBERS = 2000

pytestmark = pytest.mark.slow  # a process with two thousand sockets


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A member of a mesh that large, and its process."""
    published = json.dumps(advert(holding(transports=("tcp", "gloo"), endpoint="127.0.0.1:31000")))
    log = tmp_path_factory.mktemp("crowd") / "log"
    with log.open("wb") as errors:
        crowd = start_mesh(
            "tests.mesh.crowd", OWN_MESH, str(MEMBERS), "0", published, stderr=errors
        )
    try:
        first = crowd.stdout.readline().strip()
        settings = MeshSettings(name=OWN_MESH, seeds=(first,))
        until(lambda: len(observe(settings, HANG_S, seeds_only=True)) == MEMBERS)
        yield first, crowd.pid
    finally:
        crowd.kill()
        crowd.wait()
        crowd.close()


@fastest_of(5)
def looked(capsys: pytest.CaptureFixture[str], crowd: int, *arguments: str) -> str:
    capsys.readouterr()
    with at_most(1.0, crowd):
        assert cli.main([*arguments, "--timeout", str(HANG_S)]) == 0
    return capsys.readouterr().out


def test_a_mesh_of_two_thousand_is_shown_within_a_second(
    seed: tuple[str, int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in list(os.environ):
        if name.startswith("NETLOADER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "netmesh"))
    member, crowd = seed
    shown = json.loads(looked(capsys, crowd, "peers", "-o", "json", "--seed", member))
    assert len({one["id"] for one in shown["members"]}) == MEMBERS
    said = looked(capsys, crowd, "match", "--like", member, "--seed", member, "-o", "json")
    assert len(json.loads(said)["workers"][0]["sources"]) == MEMBERS
