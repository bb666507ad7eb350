"""The sampler tells members and counters until the mesh or the worker ends."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event

from tests.fastest import HANG_S

from netloader.metrics.sampler import Sampler, by_status
from netloader.telemetry import Telemetry
from netmesh import ClosedError


class Heard(Telemetry):
    def __init__(self, wanted: int) -> None:
        self.told: list[tuple[dict[str, int], dict[str, int]]] = []
        self.enough = Event()
        self._wanted = wanted

    def mesh(self, members: Mapping[str, int], counters: Mapping[str, int]) -> None:
        self.told.append((dict(members), dict(counters)))
        if len(self.told) == self._wanted:
            self.enough.set()


def test_every_status_is_named_even_if_no_member_has_it() -> None:
    assert by_status(()) == {"alive": 0, "stalled": 0, "suspect": 0, "dead": 0, "left": 0}


def test_it_looks_again_and_again_until_it_is_stopped() -> None:
    heard = Heard(3)
    sampler = Sampler(lambda: ((), {"sent": len(heard.told)}), heard, every_s=0.001)
    assert heard.enough.wait(HANG_S)
    sampler.stop()
    looked = len(heard.told)
    assert [counters["sent"] for _, counters in heard.told] == list(range(looked))


def test_it_ends_when_the_mesh_has_been_left() -> None:
    heard, left = Heard(1), Event()

    def look() -> tuple[tuple[()], dict[str, int]]:
        left.set()
        raise ClosedError("left")

    sampler = Sampler(look, heard, every_s=0.001)
    assert left.wait(HANG_S)
    sampler.stop()
    assert not heard.told
