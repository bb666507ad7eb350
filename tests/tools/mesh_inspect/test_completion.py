"""Real shells complete the command line, with what a real mesh shows, and with nothing harmful."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.fastest import HANG_S
from tests.meshes import OWN_MESH

from mesh_inspect import cli
from mesh_inspect.looking import COMPLETE
from netmesh import Mesh, MeshSettings

from .support import advert, holding, member, seeing

EVIL = "org/$(touch pwned)"


def completions(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What bash would get for this line."""
    monkeypatch.setenv(COMPLETE, "bash_complete")
    monkeypatch.setenv("COMP_LINE", line)
    mesh = seeing(
        [
            member(holding("org/model-7b"), id="10.0.0.1:17946"),
            member(holding(EVIL), id="10.0.0.2:17946"),
            member(holding("org/a b"), id="[fd00::1]:17946"),
            member(holding("org/\x1b[31m"), id="[fd00::1]:17947"),
        ]
    )
    assert cli.main([], mesh) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("mesh-inspect mo", ["models"]),
        ("mesh-inspect pe", []),
        ("mesh-inspect --no-h", ["--no-headers"]),
        ("mesh-inspect list --sel", ["--selector"]),
        ("mesh-inspect -o j", ["json", "jsonl"]),
        ("mesh-inspect --output=y", ["yaml"]),
        ("mesh-inspect list --by ", ["model", "host", "identity"]),
        ("mesh-inspect --by i", ["identity"]),
        ("mesh-inspect models -o jsonl --sort-by mi", ["missing"]),
        ("mesh-inspect wait --for ", ["ready", "alive"]),
        ("mesh-inspect list --model o", ["org/model-7b"]),
        ("mesh-inspect get 10.0.0.1:17", ["17946"]),
        ("mesh-inspect get 10", ["10.0.0.1:17946", "10.0.0.2:17946"]),
        ("mesh-inspect get '[fd00::1]:", ["17946", "17947"]),
        ("mesh-inspect forget 10.0.0.2", ["10.0.0.2:17946"]),
        ("mesh-inspect match --like 10.0.0.1", ["10.0.0.1:17946"]),
        ("mesh-inspect -l mod", ["model="]),
        ("mesh-inspect list -l status=alive,model=o", ["org/model-7b"]),
        ("mesh-inspect list -l rea", ["ready="]),
        ("mesh-inspect list -l ready=t", ["true"]),
        ("mesh-inspect completion ", ["bash", "zsh", "fish"]),
        ("mesh-inspect match Qwen/x --tensor", []),
    ],
)
def test_a_line_is_completed(
    line: str,
    found: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert completions(line, monkeypatch, capsys) == found


def test_commands_are_offered_and_their_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offered = completions("mesh-inspect ", monkeypatch, capsys)
    assert {"list", "get", "models", "match", "doctor", "wait", "schema"} <= set(offered)
    assert "peers" not in offered
    options = completions("mesh-inspect wait --", monkeypatch, capsys)
    assert {"--for", "--count", "--seed", "--mesh", "--timeout"} <= set(options)


def test_a_silent_mesh_offers_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from .support import PlayedMesh

    monkeypatch.setenv(COMPLETE, "bash_complete")
    monkeypatch.setenv("COMP_LINE", "mesh-inspect get 1")
    mesh = PlayedMesh(None)
    assert cli.main([], mesh.means) == 0
    out, err = capsys.readouterr()
    assert (out.strip(), err) == ("", "")
    assert mesh.asked_s == [1.0]


@pytest.fixture
def shell_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `mesh-inspect` on the path which prints its arguments, completes as ours does, and sees a
    mesh of one member."""
    for name in list(os.environ):
        if name.startswith("NETLOADER_"):
            monkeypatch.delenv(name)
    program = tmp_path / "bin/mesh-inspect"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ -n "${COMPLETE}" ] && exec {sys.executable} -m mesh_inspect "$@"\n'
        'for one in "$@"; do echo "got <$one>"; done; echo done\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "meetings"))
    monkeypatch.chdir(tmp_path)
    settings = MeshSettings(name=OWN_MESH, directory=tmp_path / "meetings")
    with Mesh.start(settings, advert(holding(EVIL), holding("org/model-7b"))) as mesh:
        assert mesh.wait_joined(HANG_S)
        (tmp_path / "id").write_text(mesh.id)
        yield tmp_path


class TypedShell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._terminal, there = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=there, stdout=there, stderr=there, start_new_session=True
        )
        os.close(there)

    def type(self, keys: str, until: str) -> str:
        """Type, and return what is shown up to a text."""
        os.write(self._terminal, keys.encode())
        shown = ""
        deadline = time.monotonic() + HANG_S
        while until not in shown:
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self._terminal], [], [], left)[0], shown
            shown += os.read(self._terminal, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


def source(shell: str) -> str:
    done = CliRunner().invoke(cli.app, ["completion", shell])
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.slow  # a shell, and an interpreter for each key
def test_bash_completes_what_is_typed(shell_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash here")
    (shell_path / "source").write_text(source("bash"))
    member_id = (shell_path / "id").read_text()
    shell = TypedShell(bash, "--norc", "--noprofile", "-i")
    try:
        shell.type("PS1=; bind 'set bell-style none'; . ./source; echo re''ady\n", "ready")
        shell.type("mesh-inspect mod\t", "models ")
        assert "got <models>" in shell.type("\n", "done")
        host = member_id.partition(":")[0]
        shell.type(f"mesh-inspect get {host}:\t", member_id)
        assert f"got <{member_id}>" in shell.type("\n", "done")
        shell.type("mesh-inspect list -l model=\t", "org/model-7b")
        assert "got <model=org/model-7b>" in shell.type("\n", "done")
        shell.type("mesh-inspect list --output=ya\t", "yaml")
        assert "got <--output=yaml>" in shell.type("\n", "done")
    finally:
        shell.close()
    assert not (shell_path / "pwned").exists()


@pytest.mark.slow  # a shell, and an interpreter
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_source(shell: str, shell_path: Path) -> None:
    text = source(shell)
    assert COMPLETE in text and "mesh-inspect" in text
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here: only its source was made")
    (shell_path / "source").write_text(text)
    done = subprocess.run([program, "-n", "source"], capture_output=True, timeout=HANG_S)
    assert (done.returncode, done.stderr) == (0, b"")
    if shell == "fish":
        asked = 'source source; complete --do-complete "mesh-inspect mod"'
        done = subprocess.run([program, "-c", asked], capture_output=True, timeout=HANG_S)
        assert done.stdout.split() == [b"models"]
