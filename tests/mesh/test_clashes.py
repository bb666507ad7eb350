"""Two processes with one address: real members, and a forger with a socket.

Slow: a member tries three times, a second apart, before it believes that the other one lives.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from tests.free_ports import free_port

from netmesh import Mesh, MeshSettings
from netmesh.address import Address, parse_address
from netmesh.core.claims import Claim
from netmesh.core.messages import Gossip, Join
from netmesh.core.records import Generation, MemberId, Status, pack_advert
from netmesh.core.wire import Codec

from .support import MemberProcess, until

pytestmark = pytest.mark.slow

NAME = f"clashes-{os.getpid()}"
FORGER = MemberId("127.0.0.1:9")


class Forger:
    """Says to one member, again and again, that another process has its address."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], target: MemberId) -> None:
        self._target = target
        self._codec = Codec(NAME)
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://{target}")
        claim = Claim(FORGER, Generation(1), 0, Status.ALIVE, 1, pack_advert({}))
        self._send(Join(FORGER, Generation(1), 1, 0, claim))

    def claim(self, generation: int, member: MemberId | None = None) -> None:
        """Claim the address of *member*; by default the address of the one it talks to."""
        claim = Claim(
            member or self._target, Generation(generation), 0, Status.ALIVE, 1, pack_advert({})
        )
        self._send(Gossip(FORGER, Generation(1), (claim,)))

    def _send(self, message: Gossip | Join) -> None:
        self._socket.send_multipart(list(self._codec.encode(message)))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def forging(target: Mesh) -> Iterator[Forger]:
    with zmq.Context[zmq.Socket[bytes]]() as context:
        forger = Forger(context, target.id)
        yield forger
        forger.close()


def settings(tmp_path: Path, port: int | None = None) -> MeshSettings:
    return MeshSettings(name=NAME, directory=tmp_path / "mesh", port=port)


def refuses(address: Address) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex((address.host, address.port)) == errno.ECONNREFUSED


def status_of(member: MemberId, mesh: Mesh) -> Status | None:
    return next((one.status for one in mesh.members() if one.id == member), None)


def test_a_member_whose_address_is_fought_for_takes_another_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "netmesh")
    with Mesh.start(settings(tmp_path), {"who": "first"}) as first:
        before = first.id
        with forging(first) as forger:

            def moved() -> bool:
                forger.claim(first.generation + 1)
                return first.id != before

            until(moved)
        assert f"{before} is taken: this process is the member {first.id}" in caplog.text
        assert caplog.text.count("too, and lives") == 1
        address = parse_address(before, 0)
        until(lambda: refuses(address))
        # At a port of its own: else it would take the one that has become free.
        with Mesh.start(settings(tmp_path, free_port()), {"who": "second"}) as second:
            # It is found by its entry, at its new address and with its advert.
            until(lambda: any(one.id == first.id for one in second.members()))
            assert [m.advert for m in second.members() if m.id == first.id] == [{"who": "first"}]
            until(lambda: any(one.id == second.id for one in first.members()))
            # What a forger tells of the old address leads to nobody: the port is closed.
            # Each is told by the forger itself: of a death whose rumour one has missed, another
            # member tells it only if it knew the dead.
            for target in (second, first):
                with forging(target) as forger:
                    forger.claim(first.generation + 1, before)
                    until(lambda target=target: status_of(before, target) is Status.DEAD)


def test_a_member_at_a_port_that_was_named_stands_back_and_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Mesh.start(settings(tmp_path, free_port()), {"who": "first"}) as first:
        before = first.id
        with forging(first) as forger:

            def given_up() -> bool:
                forger.claim(first.generation + 1)
                return bool(first.counters().get("outbids.given_up"))

            until(given_up)
            generation = first.generation
            received = first.counters()["received"]
            for step in range(20):
                forger.claim(generation + 1 + step)
            until(lambda: first.counters()["received"] >= received + 20)
        assert first.id == before and first.generation == generation
        assert first.counters()["outbids"] == 3
        assert caplog.text.count("no other port leads here") == 1


def test_of_two_processes_at_one_address_the_one_that_is_reached_stands(tmp_path: Path) -> None:
    port = free_port()
    shared: dict[str, object] = {"MESH_NAME": NAME, "MESH_DIRECTORY": str(tmp_path / "mesh")}
    alone = {**shared, "MESH_DIRECTORY": str(tmp_path / "other")}
    log = tmp_path / "log"
    members: list[MemberProcess] = []
    try:
        right = MemberProcess({**shared, "MESH_PORT": port}, {"who": "right"}, log=log)
        members.append(right)
        third = MemberProcess(shared, {"who": "third"}, log=log)
        members.append(third)
        until(lambda: right.id in third.statuses())
        wrong = MemberProcess(
            {**alone, "MESH_ADVERTISE": f"127.0.0.1:{port}", "MESH_SEEDS": third.id},
            {"who": "wrong"},
            log=log,
        )
        members.append(wrong)
        assert wrong.id == right.id
        until(lambda: wrong.ask("counters").get("outbids.given_up"))
        until(lambda: third.ask("members")[right.id][1] == {"who": "right"})
        third.ask('publish {"who": "news"}')
        until(lambda: wrong.ask("members").get(third.id, ["", {}])[1] == {"who": "news"})
        assert third.ask("members")[right.id][:2] == ["ALIVE", {"who": "right"}]
        assert "no other port leads here" in log.read_text()
    finally:
        for member in members:
            member.end()
