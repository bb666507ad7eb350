"""Why nobody answers is said at once and in full; only a source that is held up gets its time."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq
from tests.fastest import HANG_S, at_most, fastest_of
from tests.loader.support import (
    OPEN,
    candidate,
    ended_by,
    equal,
    hello,
    keys,
    listening,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.discovery.candidate import Candidate
from netloader.protocol import messages
from netloader.replica.connection import Break, Broken, Connection
from netloader.replica.outcome import Lost
from netloader.replica.settings import HandshakeSettings, PullSettings
from netloader.source.listener import ControlConnection, Listener
from netmesh import SocketSecurity

KEY = keys(secrets.token_bytes(32))
OTHER = keys(secrets.token_bytes(32))
WEIGHTS = toy_weights(1, rows=10)

FAST_S = 1.9
"""Well below the 10 s that a source has for hello."""


@fastest_of(5)
def complaint(endpoint: str, security: SocketSecurity = OPEN, **settings: Any) -> str:
    """What a pull says that must fail fast."""
    with at_most(FAST_S), ended_by(Lost) as caught:
        pull_from(
            pull_into(toy_weights(rows=10), security=security, **{"timeout_s": 30.0, **settings}),
            Candidate(endpoint, "test"),
        )
    assert endpoint in str(caught.value)
    return caught.value.reason


@contextmanager
def listener(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """Something that accepts, does `talk` with each connection and hangs up."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def run() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(2)
                    try:
                        talk(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()


class TestFailsFast:
    def test_another_key(self) -> None:
        with serving(offer_of(WEIGHTS), security=KEY) as source:
            said = complaint(source.endpoint, OTHER)
        assert said == (
            "did not accept this worker's cluster key (tried 1): compare MESH_KEY_FILE and "
            "MESH_NAME here and there"
        )

    def test_two_other_keys(self) -> None:
        both = keys(secrets.token_bytes(32), secrets.token_bytes(32))
        with serving(offer_of(WEIGHTS), security=KEY) as source:
            assert "cluster key (tried 2)" in complaint(source.endpoint, both)

    def test_the_servers_key_without_the_clients(self) -> None:
        ours, theirs = KEY.rings[0], OTHER.rings[0]
        thief = SocketSecurity((type(ours)(ours.server, theirs.client),), KEY.domain)
        with serving(offer_of(WEIGHTS), security=KEY) as source:
            assert "did not accept this worker's cluster key" in complaint(source.endpoint, thief)

    def test_the_servers_key_without_the_clients_and_refused_before_hello_is_said(self) -> None:
        """A thread that is slow to say hello finds its connection closed over the handshake."""
        ours, theirs = KEY.rings[0], OTHER.rings[0]
        thief = SocketSecurity((type(ours)(ours.server, theirs.client),), KEY.domain)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with serving(offer_of(WEIGHTS), security=KEY) as source:
            connection = Connection(context, source.endpoint, thief, 0)
            with pytest.raises(Broken):
                connection.receive(5)
            # ZeroMQ may have dialled once more by now: then there is a queue, and the reason stays.
            with pytest.raises(Broken) as caught:
                connection.send(hello(WEIGHTS))
                connection.receive(5)
            connection.close(unsaid=True)
        context.destroy(linger=0)
        assert caught.value.how is Break.KEY_REFUSED

    def test_no_key_at_a_source_that_has_one(self) -> None:
        with serving(offer_of(WEIGHTS), security=KEY) as source:
            said = complaint(source.endpoint)
        assert said == (
            "asks for a cluster key, and this worker has none: set MESH_KEY_FILE to the source's"
        )

    def test_a_key_at_a_source_that_has_none(self) -> None:
        with serving(offer_of(WEIGHTS)) as source:
            said = complaint(source.endpoint, KEY)
        assert said.startswith("has no cluster key, and this worker has one")

    @pytest.mark.parametrize("security", [OPEN, KEY])
    def test_a_web_server(self, security: SocketSecurity) -> None:
        def talk(connection: socket.socket) -> None:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with listener(talk) as endpoint:
            assert "does not speak ZeroMQ, it begins with b'HTTP" in complaint(endpoint, security)

    @pytest.mark.parametrize("security", [OPEN, KEY])
    def test_a_service_that_waits_for_more(self, security: SocketSecurity) -> None:
        with listener(lambda connection: connection.recv(100) and connection.recv(100)) as endpoint:
            assert "says nothing within 1 s" in complaint(endpoint, security)

    @pytest.mark.parametrize("security", [OPEN, KEY])
    def test_a_service_that_hangs_up(self, security: SocketSecurity) -> None:
        with listener(lambda connection: None) as endpoint:
            said = complaint(endpoint, security)
        assert "cluster key" in said if security.enabled else "closed the connection" in said

    @pytest.mark.parametrize("security", [OPEN, KEY])
    def test_a_source_that_dies_before_it_answers(self, security: SocketSecurity) -> None:
        port = listening(security)
        said: list[bytes] = []

        def die_of_hello() -> None:
            while not said:
                for _, frames in port.wait(HANG_S):
                    said.extend(frames)
            port.close()

        thread = threading.Thread(target=die_of_hello)
        thread.start()
        reason = complaint(port.endpoint, security)
        thread.join()
        assert b'"hello"' in said[0]
        assert reason.startswith("ended before it answered: the source closed the connection; now")
        assert "cannot connect" in reason

    def test_a_stopped_process(self) -> None:
        script = (
            "import zmq, sys; c = zmq.Context(); r = c.socket(zmq.ROUTER);"
            "print(r.bind_to_random_port('tcp://127.0.0.1'), flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            process.send_signal(signal.SIGSTOP)
            try:
                assert "the process is stopped" in complaint(f"127.0.0.1:{port}")
            finally:
                process.kill()


class TestHeldUp:
    """Python does nothing; ZeroMQ's own thread accepts and greets."""

    def test_hello_has_a_limit_of_its_own(self) -> None:
        port = listening()
        try:
            said = complaint(port.endpoint, handshake=HandshakeSettings(hello_timeout_s=0.5))
            assert said.startswith("silent for 0.5 s: it is connected but")
        finally:
            port.close()

    def test_a_shorter_transfer_timeout_counts(self) -> None:
        port = listening()
        try:
            assert complaint(port.endpoint, timeout_s=0.4).startswith("silent for 0.4 s")
        finally:
            port.close()

    def test_ten_seconds_are_allowed(self) -> None:
        assert PullSettings().hello_timeout_s == 10

    @pytest.mark.parametrize("security", [OPEN, KEY])
    def test_source_is_waited_for_although_its_handshake_limit_cuts(
        self, security: SocketSecurity
    ) -> None:
        # 3 s and 1 s in earnest; the source is held up for several times as long.
        held_up = threading.Event()

        class HeldUp(Listener):
            def wait(self, timeout_s: float | None) -> list[tuple[ControlConnection, list[bytes]]]:
                held_up.wait(HANG_S)
                return super().wait(timeout_s)

        listener = HeldUp("127.0.0.1", None, security, handshake_timeout_s=0.15)
        replica = toy_weights(rows=10)
        with serving(offer_of(WEIGHTS), listener=listener) as source:
            timer = threading.Timer(1.0, held_up.set)
            timer.start()
            limits = HandshakeSettings(held_up_s=0.05)
            pull = pull_into(replica, security=security, timeout_s=HANG_S, handshake=limits)
            pull_from(pull, candidate(source))
            assert held_up.is_set()
            until(lambda: source.sessions == 0)
        assert equal(replica, WEIGHTS)


def test_source_that_cuts_every_connection_after_hello_is_given_up() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    endpoint = f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    answer = messages.encode(messages.Refuse(code="keys", reason="my keys have changed"))
    heard = 0
    stop = threading.Event()

    def run() -> None:
        nonlocal heard
        while not stop.is_set():
            if router.poll(20):
                connection, *_ = router.recv_multipart()
                heard += 1
                router.send_multipart([connection, *answer])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        said = complaint(endpoint)
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)
    assert heard == PullSettings().handshake.rounds
    assert said == "the source closed the connection, 5 times, before it answered: see its log"
