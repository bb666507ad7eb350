"""Who takes over from a displaced member, and where."""

from __future__ import annotations

import itertools
import logging
from random import Random

import pytest

from netmesh.address import Address
from netmesh.bootstrap.advertise import is_own
from netmesh.core.engine import Engine
from netmesh.core.records import JsonObject, new_generation, new_record
from netmesh.core.settings import ProtocolSettings
from netmesh.io.succession import MOVES, Succession

HERE = Address("127.0.0.1", 5000)
ADVERT: JsonObject = {"model": "m"}


class Starts:
    """Numbers the generations of the members that it makes."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, address: Address, advert: JsonObject) -> Engine:
        generation = new_generation(1_790_000_000_000, next(self._numbers))
        record = new_record(address.member_id(), generation, advert)
        return Engine(ProtocolSettings(), record, Random(1))


def succession(*, is_fixed: bool) -> tuple[Succession, Engine]:
    make, ports = Starts(), itertools.count(6000)
    log = logging.getLogger("test")
    made = Succession(HERE, make, lambda: next(ports), log, is_fixed=is_fixed)
    return made, make(HERE, ADVERT)


def test_a_displaced_member_comes_back_at_another_port_with_its_advert(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, first = succession(is_fixed=False)
    second = made.after(first, elsewhere=True)
    assert second is not None and second.id == "127.0.0.1:6000" == str(made.address)
    (me,) = second.members()
    assert me.advert == ADVERT
    assert "127.0.0.1:5000 is taken: this process is the member 127.0.0.1:6000" in caplog.text


def test_it_moves_three_times_at_most_and_then_says_once_that_it_stands_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, present = succession(is_fixed=False)
    for _ in range(MOVES):
        following = made.after(present, elsewhere=True)
        assert following is not None
        present = following
    assert [made.after(present, elsewhere=True) for _ in range(3)] == [None] * 3
    assert caplog.text.count("no other port leads here") == 1


def test_at_a_fixed_address_it_stands_back(caplog: pytest.LogCaptureFixture) -> None:
    made, first = succession(is_fixed=True)
    assert made.after(first, elsewhere=True) is None and made.address == HERE
    assert "127.0.0.1:5000 is taken, and no other port leads here" in caplog.text


def test_after_a_wrong_clock_it_stays_where_it_is_as_another_start() -> None:
    made, first = succession(is_fixed=True)
    second = made.after(first, elsewhere=False)
    assert second is not None and second.id == first.id
    assert second.generation != first.generation


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_whether_an_address_is_this_hosts_is_asked_of_its_kernel(host: str, own: bool) -> None:
    assert is_own(host) is own
