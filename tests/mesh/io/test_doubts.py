"""What is told about somebody who listens where members were looked for."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netmesh import Mesh, MeshSettings, generate_key
from netmesh.address import Address, parse_address
from netmesh.core.wire import Codec
from netmesh.io.doubts import SeedDoubts
from netmesh.io.security import SocketSecurity
from netmesh.io.whois import key_in_use

from ..support import until

LOG = logging.getLogger("netmesh.test")
FIRST, SECOND, THIRD = (generate_key() for _ in range(3))


def security(*keys: str, mesh: str = "ours") -> SocketSecurity:
    key = ",".join(keys) or None
    return SocketSecurity.from_settings(MeshSettings(name=mesh, key=key))


def told(address: Address, mine: SocketSecurity, mesh: str = "ours", times: int = 2) -> list[str]:
    """What is logged about somebody at `address` by a member that looks `times` times."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    log = logging.Logger("netmesh.test.doubts")
    log.addHandler(Lines())
    doubts = SeedDoubts(lambda: mine, Codec(mesh), lambda: True, log, patience_s=0.5)
    doubts.found([address])
    for _ in range(times):
        doubts.look()
    return lines


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Mesh] = []

    def make(*keys: str, name: str = "ours") -> Address:
        settings = MeshSettings(
            name=name,
            key=",".join(keys) or None,
            advertise="127.0.0.1",
            directory=tmp_path / f"d{len(started)}",
        )
        started.append(Mesh.start(settings, {}))
        return parse_address(started[-1].id, 0)

    yield make
    for mesh in started:
        mesh.close()


def test_nothing_is_told_about_one_of_ours(start) -> None:  # type: ignore[no-untyped-def]
    assert told(start(FIRST), security(FIRST)) == []
    assert told(start(FIRST), security(SECOND, FIRST)) == []
    assert told(start(), security()) == []


def test_each_reason_is_told_once(start) -> None:  # type: ignore[no-untyped-def]
    for address, mine, why in (
        (start(FIRST), security(SECOND), "another cluster key, or"),
        (start(FIRST, name="theirs"), security(FIRST), "another MESH_NAME"),
        (start(name="theirs"), security(), "another MESH_NAME"),
        (start(FIRST), security(), "this member has none"),
        (start(), security(FIRST), "has no cluster key"),
    ):
        (line,) = told(address, mine)
        assert str(address) in line and why in line


def test_other_programs_are_told_and_nobody_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address("127.0.0.1", other.getsockname()[1])
        (line,) = told(address, security(FIRST))
        assert "another program" in line
    assert told(address, security(FIRST)) == []


def test_the_key_by_which_a_member_serves(start) -> None:  # type: ignore[no-untyped-def]
    keys = security(FIRST, SECOND)
    assert key_in_use(start(FIRST), keys) == 0
    assert key_in_use(start(SECOND, THIRD), keys) == 1
    assert key_in_use(start(THIRD), keys) is None
    assert key_in_use(Address("127.0.0.1", 1), keys) is None


def test_a_member_says_why_it_is_alone_and_the_other_side_says_who_came(
    start,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = start(FIRST)
    settings = MeshSettings(
        name="ours", key=SECOND, seeds=(str(there),), advertise="127.0.0.1", directory=tmp_path
    )
    with Mesh.start(settings, {}):
        until(lambda: f"{there} has another cluster key" in caplog.text, 30)
        until(lambda: "somebody with another cluster key" in caplog.text, 30)
