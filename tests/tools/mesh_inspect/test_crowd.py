"""Two thousand members, each with a model, are shown in less than a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fastest import HANG_S, Stopwatch, fastest_of, took_less
from tests.forked import start_mesh
from tests.mesh.support import until
from tests.meshes import OWN_MESH

from netmesh import MeshSettings, observe

from .support import advert, holding

MEMBERS = 2000

LIMIT_S = 1.0
"""For the whole program; its imports are two thirds."""

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
def looked(crowd: int, *arguments: str) -> str:
    """What the program writes. All of it counts, from its start to its end."""
    patience = () if arguments == ("keygen",) else ("--timeout", str(HANG_S))
    command = [sys.executable, "-m", "mesh_inspect", *arguments, *patience]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Stopwatch(crowd, process.pid)
        assert process.stdout is not None
        written = process.stdout.read()
        # The kernel tells how long it was kept from a core until it is waited for.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        took_s = watch.seconds()
    assert process.returncode == 0
    print(f"{' '.join(arguments)}: {took_s:.2f} s")
    took_less(took_s, LIMIT_S)
    return written


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("NETLOADER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "netmesh"))


def test_a_mesh_of_two_thousand_is_shown_within_a_second(seed: tuple[str, int]) -> None:
    member, crowd = seed
    shown = json.loads(looked(crowd, "peers", "-o", "json", "--seed", member))
    assert len({one["id"] for one in shown["members"]}) == MEMBERS
    table = looked(crowd, "peers", "-o", "wide", "--seed", member)
    assert len(table.splitlines()) == 1 + MEMBERS
    said = looked(crowd, "match", "--like", member, "--seed", member, "-o", "json")
    assert len(json.loads(said)["workers"][0]["sources"]) == MEMBERS
    # The slowest of the other formats, and the slowest way to put workers together.
    looked(crowd, "list", "-o", "yaml", "--seed", member)
    looked(crowd, "list", "--by", "model", "--seed", member)


@pytest.mark.soak
@pytest.mark.parametrize(
    "arguments",
    [
        *(["list", "-o", form] for form in ("table", "jsonl", "csv", "name")),
        *(["list", "--by", by, "-o", "json"] for by in ("model", "host", "identity")),
        ["list", "-l", "state=ready,model=org/*", "--sort-by", "-bytes"],
        ["models", "-o", "wide"],
        ["get", "MEMBER", "-o", "yaml"],
        ["transfers"],
        ["wait", "--count", str(MEMBERS)],
        ["keygen"],
    ],
    ids=" ".join,
)
def test_every_command_takes_less_than_a_second(
    arguments: list[str], seed: tuple[str, int]
) -> None:
    member, crowd = seed
    asked = [member if one == "MEMBER" else one for one in arguments]
    looked(crowd, *asked, *(["--seed", member] if asked != ["keygen"] else ()))
