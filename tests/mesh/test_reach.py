"""A member without a key stays on loopback, whatever arrives, and says so when it is cut off.

Messages are made from well-formed ones with addresses of others in every place where an id stands.
"""

import ipaddress
import logging
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq
from tests.fuzz import seeds
from tests.meshes import OWN_MESH

from netmesh import Mesh, MeshSettings, Reach, generate_key
from netmesh.core.wire import HEADER, Codec

from .support import until

REMOTE = ("192.0.2.7:9", "198.51.100.3:17946", "[2001:db8::7]:9", "[::ffff:192.0.2.7]:9")
"""Documentation addresses: whoever connects there has left loopback, and reaches nobody."""


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts that this process connects to, over ZeroMQ or by plain TCP."""
    hosts: list[str] = []

    over_zmq, plain = zmq.Socket.connect, socket.socket.connect_ex

    def connect(self: Any, address: str) -> Any:
        if address.startswith("tcp://"):
            hosts.append(address.removeprefix("tcp://").rpartition(":")[0].strip("[]"))
        return over_zmq(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        hosts.append(address[0])
        return plain(self, address)

    monkeypatch.setattr(zmq.Socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    yield hosts


def mutated(rng: random.Random, value: Any) -> Any:
    """The same value with strangers where ids stood."""
    if isinstance(value, dict):
        return {key: mutated(rng, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [mutated(rng, inner) for inner in value]
    if isinstance(value, str) and ":" in value and rng.random() < 0.7:
        return rng.choice(REMOTE)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.2:
        return rng.choice((0, 1, 2, 3, value + 1))
    return value


def test_no_message_takes_a_member_without_a_key_off_loopback(
    tmp_path: Path, connected: list[str]
) -> None:
    rng = random.Random(1)
    codec = Codec(OWN_MESH)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Mesh.start(MeshSettings(name=OWN_MESH, directory=tmp_path / "d"), {}) as mesh:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://{mesh.id}")
        sent = 0
        for _ in range(60):
            for message in seeds.MESH:
                header, body = codec.encode(message)
                changed = orjson.dumps(mutated(rng, orjson.loads(body)))
                fields = list(HEADER.unpack(header))
                fields[-1] = len(changed)
                dealer.send_multipart([HEADER.pack(*fields), changed])
                sent += 1
            # The member keeps up, so nothing waits when the test looks.
            until(lambda sent=sent: mesh.counters().get("received", 0) >= sent)
        assert mesh.counters()["dropped.not_reachable_from_here"] > 100
        assert {member.host for member in mesh.members()} <= {"127.0.0.1"}
        dealer.close()
    context.term()
    assert connected, "the spy saw nothing"
    assert all(ipaddress.ip_address(host).is_loopback for host in connected), set(connected)


def test_endpoints_that_others_publish_follow_the_same_rule(tmp_path: Path) -> None:
    with Mesh.start(MeshSettings(name=OWN_MESH, directory=tmp_path / "d"), {}) as mesh:
        assert mesh.reaches("127.0.0.1:31000")
        assert not any(mesh.reaches(endpoint) for endpoint in REMOTE)


def test_a_member_with_a_key_but_without_a_route_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = MeshSettings(name=OWN_MESH, directory=tmp_path / "d", key=generate_key())
    with caplog.at_level(logging.WARNING), Mesh.start(settings, {}) as mesh:
        alone = Reach.of(mesh.id).loopback
        assert bool(alone) == ("has no route" in caplog.text)
