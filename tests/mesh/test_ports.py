"""Ports come from the range that was set, and from nowhere else."""

from __future__ import annotations

import contextlib
import socket

import pytest

from netmesh import PortRange, listen
from netmesh.settings import MeshSettings

HOST = "127.0.0.1"


def free_range(count: int) -> PortRange:
    """Neighbouring ports, all free a moment ago, below those that the kernel hands out."""
    for first in range(20_000, 32_000, count):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.create_server((HOST, port)))
            except OSError:
                continue
            return PortRange(first, first + count - 1)
    raise AssertionError("no free ports")


@pytest.mark.parametrize("text", ["20000-20100", " 20000 - 20100 "])
def test_a_range_is_read_with_both_ends(text: str) -> None:
    ports = PortRange.parse(text)
    assert (ports.first, ports.last, str(ports)) == (20_000, 20_100, "20000-20100")
    assert 20_000 in ports and 20_100 in ports
    assert 19_999 not in ports and 20_101 not in ports


@pytest.mark.parametrize(
    "text", ["", "20000", "20100-20000", "80-90", "20000-70000", "a-b", "1-2-3"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 20000-20100"):
        PortRange.parse(text)


def test_a_whole_range_is_used_and_then_named() -> None:
    ports = free_range(4)
    with contextlib.ExitStack() as stack:
        found = {
            stack.enter_context(listen(HOST, None, ports, backlog=1)).getsockname()[1]
            for _ in range(4)
        }
        assert found == set(ports.all)
        with pytest.raises(OSError, match=f"PORT_RANGE {ports} are taken"):
            listen(HOST, None, ports, backlog=1)


def test_a_port_that_was_set_is_taken_though_it_is_outside() -> None:
    with socket.create_server((HOST, 0)) as made:
        port = made.getsockname()[1]
    with listen(HOST, port, PortRange(20_000, 20_001), backlog=1) as found:
        assert found.getsockname()[1] == port


def test_an_address_of_another_host_is_no_question_of_ports() -> None:
    with pytest.raises(OSError, match="assign"):
        listen("192.0.2.1", None, PortRange(20_000, 20_100), backlog=1)


def test_seeds_without_a_port_mean_the_first_of_the_range() -> None:
    settings = MeshSettings.load({"PORT_RANGE": "20000-20100"}, {})
    assert settings.well_known_ports == (20_000, 20_001, 20_002, 20_003)
    assert MeshSettings.load({"PORT_RANGE": "20000-20001"}, {}).well_known_ports == (20_000, 20_001)
