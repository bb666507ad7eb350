"""Which backends carry bytes of devices of which kind, and which of them comes first."""

from __future__ import annotations

import pytest
from tests.loader.transport.carriers import stage_everything

from netloader.errors import TransportError
from netloader.transport import Backend, backends_for
from netloader.transport.gloo import GlooBackend
from netloader.transport.memory import MemoryBackend
from netloader.transport.registry import FASTEST
from netloader.transport.staged import StagedBackend


def test_host_memory_travels_by_plain_gloo() -> None:
    (backend,) = backends_for("cpu")
    assert isinstance(backend, GlooBackend)


def test_a_device_without_a_library_of_its_own_travels_by_way_of_host_memory() -> None:
    (backend,) = backends_for("xpu")
    assert isinstance(backend, StagedBackend)
    assert backend.name == GlooBackend.name, "its peers may have no device"


def test_a_devices_own_library_comes_first_and_gloo_last() -> None:
    fast = MemoryBackend()
    assert backends_for("quick", {"quick": lambda: fast})[0] is fast
    assert [one.name for one in backends_for("quick", {"quick": lambda: fast})] == [
        "memory",
        "gloo",
    ]


@pytest.mark.parametrize(
    "error", [ImportError("no libhccl"), OSError("no driver"), TransportError("too old")], ids=repr
)
def test_a_library_that_this_machine_lacks_is_left_out(error: Exception) -> None:
    def make() -> Backend:
        raise error

    assert [one.name for one in backends_for("quick", {"quick": make})] == ["gloo"]


@pytest.mark.parametrize("device_type", ["cpu", "xpu", "mps", *FASTEST])
def test_every_device_has_a_backend_and_no_two_of_one_name(device_type: str) -> None:
    names = [one.name for one in backends_for(device_type)]
    assert names
    assert len({*names}) == len(names)
    assert names[-1] == stage_everything().name, "two kinds of devices have it in common"
