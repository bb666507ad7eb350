"""Strangers at the ports of a source that has few descriptors. None of them has a key."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import pytest
from tests.forked import start_loader
from tests.loader.ports import knock, listening_ports, open_descriptors, waiting
from tests.loader.support import (
    GENERATION,
    Caller,
    equal,
    pull_from,
    pull_into,
    toy_weights,
    until,
)

from netloader.discovery.candidate import Candidate
from netloader.errors import NetloaderError
from netloader.protocol import messages
from netloader.transport import join
from netloader.transport.gloo import GlooBackend

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SEED = 1
WEIGHTS = toy_weights(SEED)
LIMIT = 1024
LOOKS = 200
"""How often the descriptors are counted, after five seconds of a flood: for a second or so."""


class Flooded:
    """A source in a process of its own, with 1,024 descriptors at most."""

    def __init__(self) -> None:
        self.process = start_loader(
            "tests.loader.source_process", str(SEED), "-1", "0", "0", descriptors=LIMIT
        )
        self.endpoint = self.process.stdout.readline().strip()
        self.port = int(self.endpoint.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.close()


@pytest.fixture
def source() -> Iterator[Flooded]:
    made = Flooded()
    yield made
    made.end()


@contextmanager
def flood(port: int, count: int) -> Iterator[None]:
    """`count` connections that say nothing, each made again when it is cut."""
    over = threading.Event()

    def keep() -> None:
        with selectors.DefaultSelector() as selector:
            for one in knock(port, count):
                selector.register(one, selectors.EVENT_READ)
            while not over.is_set():
                for key, _ in selector.select(0.05):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    try:
                        cut = not one.recv(4096)
                    except BlockingIOError:
                        continue
                    except OSError:
                        cut = True
                    if cut:
                        selector.unregister(one)
                        one.close()
                        selector.register(knock(port)[0], selectors.EVENT_READ)
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pulls(source: Flooded) -> bool:
    """Whether a whole pull succeeds; its bytes are right if so."""
    mine = toy_weights()
    try:
        pull_from(pull_into(mine), Candidate(source.endpoint, "test", GENERATION))
    except NetloaderError:
        return False
    assert equal(mine, WEIGHTS)
    return True


def test_silent_connects_at_the_control_port_end_nothing(source: Flooded) -> None:
    assert pulls(source)
    before = open_descriptors(source.pid)
    whole = 0
    with flood(source.port, 1300):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            whole += pulls(source)
            assert source.alive()
        looks: list[int] = []
        until(lambda: looks.append(open_descriptors(source.pid)) or len(looks) == LOOKS)
    print(f"{whole} pulls during the flood, {max(looks)} descriptors at most after it began")
    # While the source's thread waits for a core, more than that may come in for a moment.
    assert median(looks) < LIMIT * 3 // 4, "the reserve is used"
    until(lambda: pulls(source), 30)
    until(lambda: open_descriptors(source.pid) <= before + 4, 30)


def test_connects_at_an_open_sessions_ports_end_nothing(source: Flooded) -> None:
    before = listening_ports(source.pid)
    caller = Caller(source)  # type: ignore[arg-type]  # it has an endpoint
    accept = caller.accepted(WEIGHTS, backend="gloo")
    group = join(accept.host, accept.port, accept.secret, GlooBackend(), 10)
    ports = listening_ports(source.pid) - before
    assert ports, "Gloo listens"
    strangers: list[socket.socket] = []
    while len(strangers) < LIMIT:  # fewer at once than may wait at the port
        strangers += knock(source.port, LIMIT // 8)
        # Until all who got in are in, which takes the last descriptor of a source that lets them.
        until(lambda: not waiting(source.port) or open_descriptors(source.pid) >= LIMIT - 1, 30)
    strangers += [one for port in ports for one in knock(port, 20)]
    caller.send(messages.Want(session=accept.session, chunks=(0,)))
    caller.send(messages.Done(session=accept.session))
    group.abort()
    for one in strangers:
        one.close()
    until(lambda: not source.alive() or pulls(source), 30)
    assert source.alive()
    caller.close()
