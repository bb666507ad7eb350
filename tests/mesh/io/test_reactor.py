import logging
import os

import pytest
import zmq

from .conftest import Pump


def pair(pump: Pump, name: str) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    inside, outside = pump.context.socket(zmq.PAIR), pump.context.socket(zmq.PAIR)
    inside.bind(f"inproc://{name}")
    outside.connect(f"inproc://{name}")
    return inside, outside


def test_a_raising_handler_costs_one_event(pump: Pump, caplog: pytest.LogCaptureFixture) -> None:
    inside, outside = pair(pump, "a")
    seen = []

    def handler() -> None:
        seen.append(inside.recv())
        raise ValueError("odd message")

    pump.reactor.add(inside, handler)
    with caplog.at_level(logging.ERROR):
        for number in range(5):
            outside.send(b"%d" % number)
        pump.until(lambda: len(seen) == 5)
    assert pump.counters["error.handler"] == 5
    assert len(caplog.records) == 3  # 1st, 2nd and 4th: a flood does not fill the disk


def test_a_handler_may_remove_another_of_the_same_round(pump: Pump) -> None:
    pairs = [pair(pump, name) for name in "ab"]
    ran: list[int] = []

    def handler(me: int) -> None:
        ran.append(me)
        pump.reactor.remove(pairs[1 - me][0])
        pairs[1 - me][0].close()

    for number, (inside, outside) in enumerate(pairs):
        pump.reactor.add(inside, lambda number=number: handler(number))  # type: ignore[misc]
        outside.send(b"")
    pump.reactor.poll(0.1)
    assert len(ran) == 1
    assert not pump.counters


def test_plain_descriptors(pump: Pump) -> None:
    reader, writer = os.pipe()
    seen: list[bytes] = []
    pump.reactor.add(reader, lambda: seen.append(os.read(reader, 9)))
    os.write(writer, b"x")
    pump.reactor.poll(1.0)
    assert seen == [b"x"]
    os.close(reader)
    os.close(writer)
