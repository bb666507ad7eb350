"""ROUTERs that number their connections, and clients that name them."""

from __future__ import annotations

import struct
from pathlib import Path

import zmq
from tests.named_ids import name, predictable

from netmesh.io.router_ids import is_named, new_router

from .conftest import Pump

ROOT = Path(__file__).parents[3]


def id_of(router: zmq.Socket[bytes], named: bytes = b"") -> bytes:
    """The id under which the ROUTER knows a client that has named this one, or none."""
    with name(router.bind_to_random_port("tcp://127.0.0.1"), named):
        assert router.poll(10_000)
        return router.recv_multipart()[0]


def test_nobody_knows_where_the_numbers_begin(pump: Pump) -> None:
    known = b"\0" + struct.pack("!I", predictable()[0])
    assert id_of(pump.context.socket(zmq.ROUTER)) == known, "that is what is left to chance"
    predictable()
    assert known != id_of(new_router(pump.context)) != id_of(new_router(pump.context))


def test_ids_that_clients_name_are_told_from_those_that_are_given(pump: Pump) -> None:
    assert not is_named(id_of(new_router(pump.context)))
    assert is_named(id_of(new_router(pump.context), b"\1me"))


def test_no_other_part_makes_a_router() -> None:
    sources = [path for part in ("mesh", "loader", "tools") for path in (ROOT / part).rglob("*.py")]
    makers = {path.name for path in sources if "zmq.ROUTER)" in path.read_text()}
    assert makers == {"router_ids.py"}
