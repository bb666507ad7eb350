"""Gloo's listeners, and who still gets in once the group is formed."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from tests.fastest import HANG_S
from tests.forked import answer, start_loader, tell
from tests.loader.ports import knock, listening_ports
from tests.loader.transport.carriers import open_pair

from netloader.transport.gloo import GlooBackend
from netloader.transport.listeners import shut_listeners
from netloader.transport.stripes import LANES


def test_nobody_connects_to_a_formed_group() -> None:
    before = listening_ports(os.getpid())
    pair = open_pair(GlooBackend())
    try:
        ports = listening_ports(os.getpid()) - before
        assert len(ports) == 2 * LANES
        for port in ports:
            with pytest.raises(TimeoutError):  # dropped, and not refused
                socket.create_connection(("127.0.0.1", port), timeout=0.2)
        target = torch.zeros(100_000, dtype=torch.uint8)
        arriving = pair.replica.recv(target, 1)
        pair.source.send(torch.full((100_000,), 7, dtype=torch.uint8), 1).wait(30)
        arriving.wait(30)
        assert set(target.tolist()) == {7}
    finally:
        pair.abort()
    del pair
    assert not listening_ports(os.getpid()) & ports


@pytest.mark.parametrize("mine", [[], [b""], [b"no address in this"]])
def test_nothing_is_found_where_nothing_was_left(mine: list[bytes]) -> None:
    assert shut_listeners("127.0.0.1", mine) == []
    assert shut_listeners("a name", mine) == []


def test_a_connect_does_not_end_a_process_without_descriptors() -> None:
    with start_loader("tests.loader.transport.full_process") as child:
        try:
            ports = [int(port) for port in answer(child, HANG_S).split()]
            assert answer(child, HANG_S) == "full\n"
            strangers = [one for port in ports for one in knock(port, 3)]
            tell(child, "")
            assert answer(child, HANG_S) == "1000\n"
            assert child.wait(HANG_S) == 0
            for one in strangers:
                one.close()
        finally:
            child.kill()
            child.wait()
