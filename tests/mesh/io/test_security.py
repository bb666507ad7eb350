import itertools
import logging
import os
import time
from pathlib import Path

import pytest
import zmq
from tests.fastest import HANG_S

from netmesh.errors import SettingsError
from netmesh.io.security import (
    ZAP_ENDPOINT,
    KeyRing,
    SocketSecurity,
    ZapHandler,
    generate_key,
    hkdf_sha256,
    load_keys,
    parse_key,
    warn_of_readable_key,
)
from netmesh.program import Program
from netmesh.settings import MeshSettings

from .conftest import Pump

PROGRAM = Program(keygen="crew key")
KEY, OTHER = bytes(range(32)), bytes(range(32, 64))


def ring(*keys: bytes, mesh: str = "m", purpose: str = "mesh") -> SocketSecurity:
    return SocketSecurity.from_keys(keys, mesh, purpose)


def gets_through(
    pump: Pump, server: SocketSecurity, client: SocketSecurity, key: int = 0, *, zap: bool = True
) -> bool:
    """Does a message from a client arrive at a server?"""
    handler = ZapHandler(pump.context, server, pump.counters) if zap else None
    if handler is not None:
        pump.reactor.add(handler.socket, handler.handle)
    router: zmq.Socket[bytes] = pump.context.socket(zmq.ROUTER)
    server.apply_server(router)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    dealer: zmq.Socket[bytes] = pump.context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)  # one attempt
    client.apply_client(dealer, key)
    monitor = dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    try:
        dealer.send(b"hello", zmq.DONTWAIT)
        deadline = time.monotonic() + HANG_S
        while time.monotonic() < deadline:
            pump.reactor.poll(0.005)
            if router.poll(5):
                return router.recv_multipart()[1:] == [b"hello"]
            if monitor.poll(0):
                return False
        return False
    except zmq.Again:
        return False  # refused before there was anything to send on
    finally:
        if handler is not None:
            pump.reactor.remove(handler.socket)
            handler.close()
        dealer.disable_monitor()
        monitor.close()
        dealer.close(linger=0)
        router.close(linger=0)


def test_hkdf_is_rfc_5869() -> None:
    # Test case 1 of the RFC, first 32 of its 42 bytes.
    okm = hkdf_sha256(
        b"\x0b" * 22, salt=bytes(range(13)), info=bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    )
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_keys_of_meshes_and_purposes_are_unrelated() -> None:
    rings = [
        KeyRing.derive(key, mesh, purpose)
        for key in (KEY, OTHER)
        for mesh, purpose in (("a", "mesh"), ("b", "mesh"), ("a", "load"), ("am", "esh"))
    ]
    publics = {pair.public for ring in rings for pair in (ring.server, ring.client)}
    assert len(publics) == 16
    assert KeyRing.derive(KEY, "a", "mesh") == rings[0]


def test_secrets_stay_out_of_representations() -> None:
    security = ring(KEY)
    assert security.rings[0].server.secret.decode() not in repr(security)


def test_formats_of_a_key() -> None:
    made = generate_key()
    raw = parse_key(made, PROGRAM)
    assert len(raw) == 32
    assert parse_key(raw.hex(), PROGRAM) == raw
    assert parse_key(made.rstrip("="), PROGRAM) == raw
    assert parse_key(made.replace("-", "+").replace("_", "/"), PROGRAM) == raw


@pytest.mark.parametrize(
    "text", ["", "hunter2", "a" * 43, "0" * 64, "zz" * 32, "x" * 64, "é" * 32, "ab" * 31]
)
def test_bad_keys_are_refused_and_never_shown(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_key(text, PROGRAM)
    assert not text or text not in str(caught.value)
    assert "(make one: crew key)" in str(caught.value)


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first, second = generate_key(), generate_key()
    path.write_text(f"# current\n{first}\n\n{second}  # next\n{first}\n")
    keys = load_keys(MeshSettings(key_file=path))
    assert keys == (parse_key(first, PROGRAM), parse_key(second, PROGRAM))
    path.chmod(0o666)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_keys(MeshSettings(key_file=path))
    with pytest.raises(SettingsError, match="MESH_KEY_FILE"):
        load_keys(MeshSettings(key_file=tmp_path / "none"))
    path.chmod(0o600)
    path.write_text("# nothing\n")
    with pytest.raises(SettingsError, match="0 keys"):
        load_keys(MeshSettings(key_file=path))


def test_no_key_means_no_security() -> None:
    assert not SocketSecurity.from_settings(MeshSettings()).enabled


def test_same_key_gets_in(pump: Pump) -> None:
    assert gets_through(pump, ring(KEY), ring(KEY))
    assert pump.counters["zap.accepted"] == 1


@pytest.mark.parametrize(
    "client",
    [ring(), ring(OTHER), ring(KEY, mesh="other"), ring(KEY, purpose="load")],
    ids=["plain", "key", "mesh", "purpose"],
)
def test_others_stay_out(pump: Pump, client: SocketSecurity) -> None:
    assert not gets_through(pump, ring(KEY), client)


def test_knowing_the_servers_public_key_is_not_enough(pump: Pump) -> None:
    server = ring(KEY)
    random_pair = KeyRing.derive(os.urandom(32), "m", "mesh").client
    thief = SocketSecurity((KeyRing(server.rings[0].server, random_pair),), server.domain)
    assert not gets_through(pump, server, thief)
    assert pump.counters["zap.refused"] == 1


def test_without_a_handler_nobody_gets_in(pump: Pump) -> None:
    assert not gets_through(pump, ring(KEY), ring(KEY), zap=False)


def test_rotation_needs_no_moment_at_which_all_change() -> None:
    # old -> old,new -> new,old -> new: neighbours in this list must always find a common key.
    steps = [ring(KEY), ring(KEY, OTHER), ring(OTHER, KEY), ring(OTHER)]
    pumps = [Pump() for _ in range(6)]
    pairs = [pair for a, b in itertools.pairwise(steps) for pair in ((a, b), (b, a))]
    for pump, (server, client) in zip(pumps, pairs, strict=True):
        served_by = server.rings[0]
        assert gets_through(pump, server, client, client.rings.index(served_by))
        pump.context.destroy(linger=0)


def test_a_plain_client_cannot_talk_to_the_zap_handler_of_another_domain(pump: Pump) -> None:
    handler = ZapHandler(pump.context, ring(KEY))
    pump.reactor.add(handler.socket, handler.handle)
    allowed = [b"1.0", b"7", b"netmesh.other.mesh", b"", b"", b"CURVE", b"k" * 32]
    for request in (allowed, [b""], [b"1.0"], [b"1.0", b"7", b"", b"", b"", b"NULL"]):
        asker: zmq.Socket[bytes] = pump.context.socket(zmq.REQ)
        asker.connect(ZAP_ENDPOINT)
        asker.send_multipart(request)
        pump.until(lambda asker=asker: asker.poll(0))  # type: ignore[misc]
        answer = asker.recv_multipart()
        assert answer[0] == b"1.0"
        assert answer[2] == b"400"
        asker.close(linger=0)
    handler.close()


def test_a_key_file_that_everybody_can_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    path.write_text(generate_key())
    settings = MeshSettings(key_file=path)
    path.chmod(0o600)
    warn_of_readable_key(settings, logging.getLogger("netmesh"))
    warn_of_readable_key(MeshSettings(), logging.getLogger("netmesh"))
    assert not caplog.records
    path.chmod(0o644)
    warn_of_readable_key(settings, logging.getLogger("netmesh"))
    assert str(path) in caplog.text and "chmod 600" in caplog.text
