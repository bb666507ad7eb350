"""`web` and `record` as programs that look at a real member, with a cluster key."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.fastest import HANG_S
from tests.forked import answer
from tests.mesh.support import until
from tests.meshes import OWN_MESH

from mesh_inspect import cli
from mesh_inspect.recording.reader import Recording
from netmesh import Mesh, MeshSettings, generate_key

from .support import PlayedMesh, advert, holding, member

KEY = generate_key()

pytestmark = pytest.mark.slow  # interpreters and a real member


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mesh, dict[str, str]]]:
    """A member, and the environment of a program that finds it."""
    directory = tmp_path_factory.mktemp("mesh")
    env = {name: said for name, said in os.environ.items() if not name.startswith("NETLOADER_")}
    env |= {
        "NETLOADER_MESH_NAME": OWN_MESH,
        "NETLOADER_MESH_KEY": KEY,
        "NETLOADER_MESH_DIRECTORY": str(directory / "d"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    settings = MeshSettings(name=OWN_MESH, key=KEY, directory=directory / "d", bind="127.0.0.1",
                            advertise="127.0.0.1")  # fmt: skip
    with Mesh.start(settings, advert(holding("org/a"))) as mesh:
        yield mesh, env


@contextmanager
def program(env: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "mesh_inspect", *arguments],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_map_of_a_real_member(world: tuple[Mesh, dict[str, str]], tmp_path: Path) -> None:
    mesh, env = world
    file = tmp_path / "token"
    file.write_text("a token for this test\n")
    arguments = ["web", "--port", "0", "--token-file", str(file), "--timeout", str(HANG_S)]
    with program(env, *arguments, "--seed", mesh.id) as process:
        said = answer(process)  # type: ignore[arg-type]
        assert said.startswith(f"mesh {OWN_MESH} at http://127.0.0.1:") and "token" not in said
        port = urlsplit(said.split()[-1]).port
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)) as client:
            bearer = {"Authorization": "Bearer a token for this test"}
            everything = ""
            for path in ("/api/mesh", f"/api/members/{mesh.id}", "/api/happened"):
                client.request("GET", path, headers=bearer)
                got = client.getresponse()
                assert got.status == 200
                everything += got.read().decode()
            client.request("GET", "/?token=a+token+for+this+test")
            assert client.getresponse().read()
        assert mesh.id in everything and '"org/a"' in everything and KEY not in everything
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=HANG_S)
        # Nothing is logged, least of all a token.
        assert errors == ""
        assert process.returncode in (0, -signal.SIGTERM)


def test_a_recording_of_a_real_member(world: tuple[Mesh, dict[str, str]], tmp_path: Path) -> None:
    mesh, env = world
    path = tmp_path / "mesh.rec"
    arguments = ["record", str(path), "--interval", "0.05", "--timeout", str(HANG_S)]
    with program(env, *arguments, "--seed", mesh.id) as process:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") >= 2)
        mesh.publish(advert(holding("org/b")))
        until(lambda: b"org/b" in path.read_bytes())
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=HANG_S)
        assert process.returncode == 0 and printed.startswith(f"{path}: ")
    mesh.publish(advert(holding("org/a")))
    recording = Recording(path)
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert last["at"] == recording.to and last["members"] == []
    assert KEY not in path.read_text()


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["web", "--port", port], PlayedMesh(()).means) == 64
    err = capsys.readouterr().err
    assert port in err and "--port" in err


@pytest.mark.parametrize("held", [None, "short", "x" * 15, "x" * 20 + "\x00", "é" * 20])
def test_a_token_file_that_cannot_be_used(
    held: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    if held is not None:
        file.write_text(held)
    assert cli.main(["web", "--token-file", str(file)], PlayedMesh(()).means) == 64
    assert "--token-file" in capsys.readouterr().err


@pytest.mark.parametrize("held", [None, "", "{}\n", "PK\x03\x04"])
def test_a_file_that_is_no_recording(
    held: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.rec"
    if held is not None:
        file.write_text(held)
    assert cli.main(["web", "--replay", str(file)], PlayedMesh(()).means) in (1, 64)
    assert "r.rec" in capsys.readouterr().err


def test_record_says_why_it_does_not_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.rec"
    file.write_text("precious")
    mesh = PlayedMesh((member(holding("a")),))
    assert cli.main(["record", str(file)], mesh.means) == 1
    assert file.read_text() == "precious" and "--force" in capsys.readouterr().err
    assert cli.main(["record", str(tmp_path / "none" / "r")], mesh.means) == 1
    new = tmp_path / "new"
    wrong = {"--max-bytes": ("0", "1X", "100"), "--for": ("0", "x"), "--interval": ("0",)}
    for option, values in wrong.items():
        for value in values:
            assert cli.main(["record", str(new), option, value], mesh.means) == 64
            assert not new.exists()
