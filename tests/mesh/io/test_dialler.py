import socket
import time

import pytest

from netmesh.core.events import DialOutcome
from netmesh.core.records import MemberId
from netmesh.io import dialler as module
from netmesh.io.dialler import Dialler

from .conftest import Pump

Outcomes = list[tuple[str, DialOutcome]]


def dialler(pump: Pump) -> tuple[Dialler, Outcomes]:
    outcomes: Outcomes = []
    made = Dialler(pump.reactor, lambda member, how: outcomes.append((member, how)), pump.counters)
    return made, outcomes


def finish(pump: Pump, made: Dialler, outcomes: Outcomes, count: int) -> None:
    def done() -> bool:
        made.expire(time.monotonic())
        return len(outcomes) == count

    pump.until(done)


def full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full: further connects get no answer, as from a dead host."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    fillers = []
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    return listener, fillers


def test_a_listening_kernel_is_connected_even_if_nobody_accepts(pump: Pump) -> None:
    made, outcomes = dialler(pump)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = MemberId(f"127.0.0.1:{server.getsockname()[1]}")
        made.dial(target, 1.0, time.monotonic())
        finish(pump, made, outcomes, 1)
    assert outcomes == [(target, DialOutcome.CONNECTED)]


def test_a_closed_port_is_refused(pump: Pump) -> None:
    made, outcomes = dialler(pump)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = MemberId(f"127.0.0.1:{server.getsockname()[1]}")
    made.dial(target, 1.0, time.monotonic())
    finish(pump, made, outcomes, 1)
    assert outcomes == [(target, DialOutcome.REFUSED)]


def test_no_answer_is_silence_after_the_timeout(pump: Pump) -> None:
    made, outcomes = dialler(pump)
    listener, fillers = full_listener()
    target = MemberId(f"127.0.0.1:{listener.getsockname()[1]}")
    now = time.monotonic()
    made.dial(target, 60.0, now)
    pump.reactor.poll(0.02)
    made.expire(now + 59.9)
    assert outcomes == []
    assert made.deadline() == now + 60.0
    made.expire(now + 60.0)
    assert outcomes == [(target, DialOutcome.SILENT)]
    assert made.deadline() == float("inf")
    for sock in (*fillers, listener):
        sock.close()


def test_every_dial_is_answered_once_and_few_are_open(
    pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    made, outcomes = dialler(pump)
    listener, fillers = full_listener()
    now = time.monotonic()
    for number in range(8):  # two open, three wait, three are one too many
        made.dial(MemberId(f"127.0.0.{number + 1}:{listener.getsockname()[1]}"), 1.0, now)
    assert pump.counters["dropped.dial"] == 3
    made.expire(now)
    assert len(outcomes) == 3
    while made.deadline() < float("inf"):
        now += 1.0
        made.expire(now)
    assert len({member for member, _ in outcomes}) == len(outcomes) == 8
    for sock in (*fillers, listener):
        sock.close()


@pytest.mark.parametrize("target", ["name:5", "0.0.0.0:5", "nonsense"])
def test_ids_that_are_no_addresses_are_silent_and_counted(pump: Pump, target: str) -> None:
    made, outcomes = dialler(pump)
    made.dial(MemberId(target), 1.0, 0.0)
    assert outcomes == []  # never from inside dial
    made.expire(0.0)
    assert outcomes == [(MemberId(target), DialOutcome.SILENT)]
    assert pump.counters["dropped.bad_address"] == 1
