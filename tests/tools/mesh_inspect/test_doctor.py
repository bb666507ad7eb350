"""`doctor` finds each fault that is planted, and nothing where all is well.

Members, sources and transfers are real, on loopback; each fault is made as an operator would make
it. What the judgement says of hosts that a test cannot have is in `test_judgement.py`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.fastest import HANG_S
from tests.loader.replica.played_source import played
from tests.loader.support import OPEN, identity, offer_of, start_source, toy_weights
from tests.mesh.support import until
from tests.meshes import OWN_MESH

import netmesh
from mesh_inspect import cli
from mesh_inspect.looking import Means
from netloader.discovery.advert import Holding, encode
from netloader.identity.identity import Identity, known
from netloader.source.service import Source
from netloader.transport.tcp import TcpBackend
from netmesh import Generation, Mesh, MeshSettings, SocketSecurity

KEY = netmesh.generate_key()
WEIGHTS = toy_weights(1, rows=40)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting but a mesh and a same-host directory of this test's own."""
    for name in list(os.environ):
        if name.startswith(("NETLOADER_", "KUBERNETES_", "SLURM_", "RAY_")):
            monkeypatch.delenv(name)
    path = tmp_path / "netmesh"
    monkeypatch.setenv("NETLOADER_MESH_NAME", OWN_MESH)
    monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(path))
    return path


class Workers:
    """Members that serve weights, as workers do."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open = ExitStack()
        self.started: list[Mesh] = []

    def start(
        self, *, key: str | None = None, who: Identity | None = None, name: str = OWN_MESH
    ) -> tuple[Mesh, Source]:
        who = who or identity()
        security = OPEN if key is None else _control(key, name)
        generation: list[Generation] = []
        source = start_source(HANG_S, security=security, generation=lambda: generation[0])
        self._open.callback(source.close)
        source.serve(offer_of(WEIGHTS, who=who, backend=TcpBackend()))
        settings = MeshSettings.model_validate(
            {
                "name": name,
                "directory": self._directory,
                "key": key,
                "advertise": "127.0.0.1",
            }
        )
        mesh = Mesh.start(settings, encode([holding(who, source.endpoint)]))
        self._open.callback(mesh.close)
        generation.append(mesh.generation)
        assert mesh.wait_joined(HANG_S)
        self.started.append(mesh)
        for one in self.started:
            assert one.wait(lambda members: len(members) >= len(self.started), HANG_S)
        return mesh, source

    def close(self) -> None:
        self._open.close()


def _control(key: str, name: str) -> SocketSecurity:
    return SocketSecurity.from_settings(
        MeshSettings.model_validate({"key": key, "name": name}), "netloader"
    )


def holding(who: Identity, endpoint: str) -> Holding:
    return Holding.fitted(
        {
            "role": who.role,
            "state": "ready",
            "identity": who.digest,
            "names": who.names.travelling(),
            "fields": who.fields(),
            "content": known(who.content),
            "endpoint": endpoint,
            "backend": "gloo",
            "transports": ("tcp", "gloo"),
            "nbytes": WEIGHTS.manifest.nbytes,
            "chunk_bytes": WEIGHTS.manifest.chunk_bytes,
        }
    )


@pytest.fixture
def workers(directory: Path) -> Iterator[Workers]:
    made = Workers(directory)
    yield made
    made.close()


Examine = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Examine:
    """The exit status and the document of one examination."""

    def run(*arguments: str, means: Means | None = None) -> tuple[int, dict[str, Any]]:
        status = cli.main(["doctor", "-o", "json", "--timeout", str(HANG_S), *arguments], means)
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, document

    return run


def found(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Area, subject and words of each finding."""
    return [
        (one["area"], one["subject"], one["what"])
        for check in document["checks"]
        for one in check["findings"]
    ]


def summary(document: dict[str, Any], area: str) -> str:
    return next(str(check["summary"]) for check in document["checks"] if check["area"] == area)


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "key"])
def test_nothing_is_found_where_all_is_well(
    workers: Workers, examine: Examine, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, source), (second, other) = workers.start(key=key), workers.start(key=key)
    if key is not None:
        monkeypatch.setenv("NETLOADER_MESH_KEY", key)
        monkeypatch.setenv("NETLOADER_MESH_ADVERTISE", "127.0.0.1")
    status, document = examine("--seed", first.id, "--seed", second.id)
    assert (status, found(document)) == (0, [])
    assert document["healthy"] and document["answered"]
    assert "2 of 2 members reached, 2 of 2 listeners" in summary(document, "ports")
    assert "digest right" in summary(document, "transfer")
    until(lambda: source.sessions + other.sessions == 0)
    status, document = examine("--no-transfer")  # by the same-host directory
    assert (status, found(document)) == (0, [])


def test_a_wrong_key(workers: Workers, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, _ = workers.start(key=KEY)
    monkeypatch.setenv("NETLOADER_MESH_KEY", netmesh.generate_key())
    status, document = examine("--seed", mesh.id)
    assert status == 1
    ((area, subject, what),) = found(document)
    assert (area, subject) == ("key", f"seed {mesh.id}")
    assert "does not accept the cluster key" in what
    monkeypatch.delenv("NETLOADER_MESH_KEY")
    _, document = examine("--seed", mesh.id)
    assert [area for area, _, _ in found(document)] == ["key"]


@pytest.mark.parametrize("port_range", ["", "31000-31009"])
def test_a_wrong_port_with_the_right_one_beside_it(
    workers: Workers, examine: Examine, monkeypatch: pytest.MonkeyPatch, port_range: str
) -> None:
    monkeypatch.setenv("NETLOADER_PORT_RANGE", port_range)
    mesh, _ = workers.start()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        wrong = f"127.0.0.1:{closed.getsockname()[1]}"
    status, document = examine("--seed", wrong)
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "seeds", f"seed {wrong}")
    assert "nobody listens there" in what
    (fault,) = [one for check in document["checks"] for one in check["findings"]]
    port = int(mesh.id.rpartition(":")[2])
    if port in MeshSettings(name=OWN_MESH).well_known_ports:
        assert fault["remedy"].startswith(f"use {mesh.id}")


def test_another_program_at_the_port(examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        where = f"127.0.0.1:{stranger.getsockname()[1]}"
        status, document = examine("--seed", where, "--no-transfer")
    assert status == 1
    assert "another program" in found(document)[0][2]


def test_a_seed_that_leads_nowhere(examine: Examine, tmp_path: Path) -> None:
    status, document = examine("--seed", f"file:{tmp_path / 'none'}")
    ((area, _, what),) = found(document)
    assert (status, area) == (1, "seeds") and "No such file" in what


def test_a_seed_that_cannot_be_reached(examine: Examine) -> None:
    """The kernel drops what asks for a connection where too many wait, as a firewall does."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        where = full.getsockname()
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(where)
        seed = f"127.0.0.1:{where[1]}"
        status, document = examine("--seed", seed)
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "seeds", f"seed {seed}")
    assert "nothing came back" in what


@pytest.mark.parametrize("shift_s", [3600.0, -3600.0])
def test_a_clock_an_hour_off(workers: Workers, examine: Examine, shift_s: float) -> None:
    workers.start()
    workers.start()
    means = Means(wall_s=lambda: time.time() - shift_s)
    status, document = examine("--no-transfer", means=means)
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "clock", "this host")
    assert f"{3600} s {'behind' if shift_s > 0 else 'ahead of'}" in what


def test_versions_that_never_share(workers: Workers, examine: Examine) -> None:
    workers.start()
    older = identity(built={**identity().built, "code.vllm": "0.30.1"})
    workers.start(who=older)
    status, document = examine("--no-transfer")
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "versions", "toy")
    assert "0.30.1" in what and "0.32.0" in what


def test_few_descriptors(workers: Workers, examine: Examine) -> None:
    workers.start()
    status, document = examine("--no-transfer", means=Means(hard_limit=lambda: 300))
    ((area, _, what),) = found(document)
    assert (status, area) == (1, "descriptors") and "300 file descriptors" in what


def test_a_data_port_that_is_closed(workers: Workers, examine: Examine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with played(WEIGHTS, port=port) as endpoint:
        mesh, _ = workers.start()
        mesh.publish(encode([holding(identity(), endpoint)]))
        status, document = examine()
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "transfer", mesh.id)
    assert f"127.0.0.1:{port}" in what and "data port" in what


def test_a_control_port_that_is_closed(workers: Workers, examine: Examine) -> None:
    mesh, _ = workers.start()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"127.0.0.1:{closed.getsockname()[1]}"
    mesh.publish(encode([holding(identity(), endpoint)]))
    status, document = examine("--no-transfer")
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "ports", endpoint) and "cannot connect" in what


def test_a_stale_entry_of_the_directory(
    workers: Workers, examine: Examine, directory: Path
) -> None:
    mesh, _ = workers.start()
    (file,) = (directory / "netmesh").iterdir()
    gone = file.with_name(file.name.replace(f"-{os.getpid()}-", "-1-"))
    entry = json.loads(file.read_bytes())
    gone.write_text(json.dumps(entry | {"pid": 1, "started": "never"}, separators=(",", ":")))
    status, document = examine("--no-transfer")
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "directory", str(gone))
    assert "process 1" in what and mesh.id in what
    assert gone.exists(), "doctor writes and removes nothing"


@pytest.mark.parametrize("key", [None, KEY], ids=["open", "key"])
def test_another_mesh_behind_a_seed_and_in_the_directory(
    workers: Workers, examine: Examine, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key is not None:
        monkeypatch.setenv("NETLOADER_MESH_KEY", key)
        monkeypatch.setenv("NETLOADER_MESH_ADVERTISE", "127.0.0.1")
    # With `--seed` the directory is not read, so `default` is the only other name to try.
    mesh, _ = workers.start(key=key, name="default")
    status, document = examine("--mesh", "prod", "--seed", mesh.id)
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "mesh name", f"seed {mesh.id}")
    assert "mesh 'default'" in what
    status, document = examine("--mesh", "prod")
    ((area, subject, what),) = found(document)
    assert (status, area, subject) == (1, "mesh name", mesh.id)
    assert "none of 'prod'" in what


def test_nobody_is_3_and_a_bad_command_line_2(
    examine: Examine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, document = examine("--timeout", "2")
    assert (status, document["answered"], document["healthy"]) == (3, False, False)
    for arguments in (["--bogus"], ["-o", "wide"], ["--model", "m"], ["extra"]):
        assert cli.main(["doctor", *arguments]) == 2
    assert cli.main(["doctor", "--mesh", "no blanks"]) == 2
    monkeypatch.setenv("NETLOADER_MESH_KEY", "hunter2")
    assert cli.main(["doctor", "--timeout", "1"]) == 2
    assert "hunter2" not in capsys.readouterr().err


def test_people_read_what_is_wrong_and_what_to_do(
    workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    workers.start()
    assert cli.main(["doctor", "--no-transfer"], Means(hard_limit=lambda: 300)) == 1
    lines = capsys.readouterr().out.splitlines()
    wrong = next(number for number, line in enumerate(lines) if line.startswith("wrong"))
    assert lines[wrong].startswith("wrong descriptors: up to 300")
    assert "do: raise the hard limit" in lines[wrong + 2]
    assert lines[-1] == "1 finding"
    assert any(line.startswith("ok    ports: 1 of 1") for line in lines)
