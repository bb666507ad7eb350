"""The command against real members on loopback: what it prints, how it ends, what it leaves."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from tests.fastest import HANG_S
from tests.meshes import OWN_MESH

import netmesh
from mesh_inspect import cli
from mesh_inspect.exits import InspectExit
from netmesh import (
    JsonObject,
    Mesh,
    MeshSettings,
    NoMeshError,
    Status,
    VersionMismatch,
)

from .support import ALONE, PlayedMesh, advert, holding

Start = Callable[..., Mesh]

SOON = ["--timeout", "0.3"]
"""Where no answer is expected."""

LONG = ["--timeout", str(HANG_S)]
"""Where one is."""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting but a mesh and a same-host directory of this test's own."""
    for name in list(os.environ):
        if name.startswith("NETLOADER_"):
            monkeypatch.delenv(name)
    path = tmp_path / "netmesh"
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(path))
    return path


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Starts members, each of which knows all the earlier ones when it is handed out."""
    started: list[Mesh] = []

    def make(published: JsonObject, **settings: object) -> Mesh:
        values = {"name": OWN_MESH, "directory": directory} | settings
        mesh = Mesh.start(MeshSettings.model_validate(values), published)
        started.append(mesh)
        assert mesh.wait_joined(HANG_S)
        return mesh

    yield make
    for mesh in started:
        mesh.close()


@pytest.fixture
def pair(start: Start) -> tuple[Mesh, Mesh]:
    """A worker with a target and a draft, and one that has just started."""
    place = replace(ALONE, tp_size=2, tp_rank=1)
    first = start(advert(holding("org/target", place), holding("org/draft", role="draft")))
    second = start({})
    assert first.wait(lambda members: len(members) == 2, HANG_S)
    assert second.wait(lambda members: len(members) == 2, HANG_S)
    return first, second


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_it_shows_every_holding_without_a_command(
    pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(LONG) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][0] == "MODEL"
    assert [line[:4] for line in lines[1:]] == [
        ["-", "-", "-", "alive"],
        ["org/draft", "draft", "tp0/1", "ready"],
        ["org/target", "target", "tp1/2", "ready"],
    ]


def test_json_is_one_document(pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*LONG, "peers", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["apiVersion"], document["mesh"]) == ("mesh-inspect/v1", OWN_MESH)
    seen = {(entry["id"], entry["generation"]) for entry in document["members"]}
    assert seen == {(mesh.id, mesh.generation) for mesh in pair}
    target = next(one for one in document["members"] if one["model"] == "org/target")
    assert target["layout"]["tp_rank"] == 1
    assert target["ready"] is True


def test_wide_names_the_member(pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*LONG, "-o", "wide", "peers"]) == 0
    out = capsys.readouterr().out
    assert all(mesh.id in out for mesh in pair)


def test_the_observer_is_never_a_member(pair: tuple[Mesh, Mesh], directory: Path) -> None:
    files = contents(directory)
    for _ in range(3):
        assert cli.main([*LONG, "-o", "json"]) == 0
        assert cli.main([*LONG, "--seed", pair[0].id]) == 0
    for mesh in pair:
        assert {member.id for member in mesh.members()} == {one.id for one in pair}
    assert contents(directory) == files


def test_a_member_that_left_is_still_shown(
    pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = pair
    first.leave()
    assert second.wait(lambda members: sum(one.selectable for one in members) == 1, 5)
    assert cli.main([*LONG, "--model", "org/target", "-o", "json"]) == 0
    (gone,) = json.loads(capsys.readouterr().out)["members"]
    assert (gone["status"], gone["ready"], gone["id"]) == ("left", False, first.id)


def test_the_filter_decides_between_0_and_2(
    pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*LONG, "--model", "org/*", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["members"]) == 2
    assert cli.main([*LONG, "--model", "org/other"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "org/other" in err
    assert cli.main([*LONG, "--model", "org/other", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["members"] == []


def test_a_mesh_of_another_name_is_not_seen(
    pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--mesh", "other", "--seed", pair[0].id, *SOON]) == 3
    assert "'other'" in capsys.readouterr().err


def test_a_seed_is_the_only_place_asked(
    pair: tuple[Mesh, Mesh], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--seed", "127.0.0.1:1", *SOON]) == 3
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert cli.main([*LONG, "--seed", "127.0.0.1:1", "--seed", pair[1].id]) == 0
    monkeypatch.delenv("NETLOADER_MESH_DIRECTORY")
    assert cli.main([*LONG, "--seed", pair[0].id]) == 0


def test_settings_come_from_the_environment_of_a_worker(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = netmesh.generate_key()
    mesh = start({}, name="prod", key=key, advertise="127.0.0.1")
    monkeypatch.setenv("NETLOADER_MESH_NAME", "prod")
    assert cli.main(SOON) == 3
    monkeypatch.setenv("NETLOADER_MESH_KEY", key)
    assert cli.main([*LONG, "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["members"][0]["id"] == mesh.id
    assert key not in err
    assert cli.main(["--mesh", "default", *SOON]) == 3


def test_a_variable_that_kubernetes_wrote_changes_nothing(
    start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = start({})
    monkeypatch.setenv("NETLOADER_MESH_PORT", "tcp://10.96.0.1:17946")
    assert cli.main([*LONG, "-o", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["members"][0]["id"] == mesh.id
    assert err == ""
    monkeypatch.setenv("NETLOADER_MESH_PORT", "banana")
    assert cli.main(SOON) == 64


def test_no_mesh_says_what_was_tried_and_what_to_do(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(SOON) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert str(directory) in err
    assert "--seed" in err
    assert "--load-format netloader" in err
    assert not directory.exists()


def test_a_likely_reason_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = NoMeshError("default", ("h:1",), 3.0)
    nobody.__cause__ = VersionMismatch(9, 1, 1)
    assert cli.main([], PlayedMesh(nobody).means) == 3
    assert "version 9" in capsys.readouterr().err


def test_a_hostile_member_is_shown_harmlessly(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    start(advert(holding("\x1b]0;owned\x07[red]m[/red]")))
    start({"holdings": [{"role": 1}, "x"], "schema": "\x1b[2J"})
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b]0;owned\\x07[red]m[/red]" in out
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "xml"],
        ["members"],
        ["--seeds", "h"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "inf"],
        ["--timeout", "soon"],
        ["--mesh"],
        ["peers", "extra"],
        ["keygen", "-o", "json"],
    ],
)
def test_a_wrong_command_line_is_64(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage:")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seed", "host:99999"], "--seed"),
        (["--seed", "10.0.0.1"], "MESH_KEY_FILE"),  # leaves this host without a key
        (["--mesh", "no blanks"], "--mesh"),
        (["--mesh", ""], "--mesh"),
    ],
)
def test_a_value_that_cannot_be_used_is_64(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, *SOON]) == 64
    assert named in capsys.readouterr().err


def test_a_bad_key_is_64_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NETLOADER_MESH_KEY", "hunter2")
    assert cli.main(SOON) == 64
    err = capsys.readouterr().err
    assert "MESH_KEY" in err
    assert "hunter2" not in err


def test_an_unsafe_directory_is_told(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory.mkdir()
    directory.chmod(0o755)
    assert cli.main(SOON) == 3
    assert "MESH_DIRECTORY" in capsys.readouterr().err


def test_help_documents_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for status in InspectExit:
        assert status is InspectExit.INTERRUPTED or f"\n    {status.value:<4} " in out


def test_keygen_makes_a_key_that_a_mesh_takes(capsys: pytest.CaptureFixture[str]) -> None:
    keys = []
    for _ in range(2):
        assert cli.main(["keygen"]) == 0
        out = capsys.readouterr().out
        assert len(base64.urlsafe_b64decode(out)) == 32
        assert len(out.splitlines()) == 1
        keys.append(out.strip())
    assert keys[0] != keys[1]
    settings = MeshSettings.model_validate({"key": keys[0]})
    assert netmesh.SocketSecurity.from_settings(settings).enabled


def command(*arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mesh_inspect", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environ,
    )


@pytest.mark.slow  # an interpreter of its own: its start takes most of a second
def test_the_command_in_a_pipe(start: Start) -> None:
    model = "\u6a21\u578b/" + "x" * 200
    start(advert(holding(model)))
    process = command(*LONG, PYTHONIOENCODING="ascii", FORCE_COLOR="1", COLUMNS="40")
    out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, err) == (0, b"")
    assert b"\\u6a21\\u578b/" + b"x" * 200 in out
    assert b"\x1b" not in out


@pytest.mark.slow  # an interpreter of its own
def test_the_command_leaves_every_file_where_it_is(start: Start, directory: Path) -> None:
    mesh = start({})
    (entry,) = contents(directory)
    dead = orjson.loads(entry.read_bytes()) | {"started": "never"}
    files = {
        directory / "config.json": b"{}",
        directory / "service-account.json": b'{"private_key": "x"}',
        entry.parent / "big-model.index.json": b'{"weight_map": {}}',
        entry.with_name(entry.name.replace(f"-{os.getpid()}-", "-1-")): b'{"version": 2}',
        entry.with_name(entry.name.replace(f"-{os.getpid()}-", "-2-")): orjson.dumps(
            dead | {"pid": 2}
        ),
    }
    mesh.close()
    for path, content in files.items():
        path.write_bytes(content)
    process = command("--timeout", "1")
    assert b"no member" in process.communicate(timeout=HANG_S)[1]
    assert process.returncode == 3
    assert contents(directory) == files
    start({})  # One that announces itself sweeps, and that only what is an entry.
    (entry,) = contents(directory).keys() - files.keys()
    *others, swept = files
    assert contents(directory).keys() == {*others, entry}
    assert not swept.exists()


@pytest.mark.slow  # an interpreter of its own
def test_a_reader_that_has_enough_is_no_error(start: Start) -> None:
    start({})
    process = command(*LONG, "-o", "json")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.slow  # interpreters of their own
@pytest.mark.parametrize(
    ("redirection", "status", "out", "err"),
    [
        (">&-", 1, b"", b"stdout is closed"),
        ("-l bad=key 2>&-", 64, b"", b""),
        ("> /dev/full", 1, b"", b"No space left"),
        ("-w | head -n 1", 0, b"MODEL ", b""),
    ],
)
def test_output_that_goes_nowhere_is_told_or_ends_it(
    redirection: str, status: int, out: bytes, err: bytes, start: Start
) -> None:
    start({})
    line = f'"{sys.executable}" -m mesh_inspect {" ".join(LONG)} {redirection}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=HANG_S)
    assert done.returncode == status
    assert done.stdout.startswith(out) and bool(done.stdout) == bool(out)
    assert err in done.stderr and bool(done.stderr) == bool(err)
    assert b"Traceback" not in done.stderr


def test_a_dead_member_is_forgotten_and_a_living_one_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mesh = PlayedMesh()

    def run(answer: Status | None, *arguments: str) -> tuple[int, str]:
        mesh.answer = answer
        status = cli.main(["forget", "10.0.0.9:17946", *arguments], mesh.means)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    assert run(Status.LEFT) == (0, "10.0.0.9:17946 is forgotten\n")
    status, text = run(Status.STALLED, "--seed", "a", "--timeout", "9")
    assert mesh.seeds_only
    assert status == 2 and "is stalled: only a dead member can be forgotten" in text
    status, text = run(None)
    assert status == 2 and "knows no member 10.0.0.9:17946" in text
    assert not mesh.seeds_only
    assert mesh.buried[:2] == [("10.0.0.9:17946", 3.0), ("10.0.0.9:17946", 9.0)]


def test_forgetting_takes_one_address() -> None:
    assert cli.main(["forget"]) == 64
    assert cli.main(["forget", "10.0.0.9:17946", "--model", "m"]) == 64
    assert cli.main(["peers", "10.0.0.9:17946"]) == 64
    assert cli.main(["keygen", "10.0.0.9:17946"]) == 64
    assert cli.main(["forget", "node-7", *SOON]) == 64


def test_forgetting_without_a_mesh_says_where_it_looked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["forget", "127.0.0.1:9", *SOON]) == 3
    assert "looked in: same-host directory" in capsys.readouterr().err
