"""Which backends carry bytes of devices of which kind, and which of them comes first."""

from __future__ import annotations

import pytest

from netloader.errors import TransportError
from netloader.transport import Backend, backends_for
from netloader.transport.memory import MemoryBackend
from netloader.transport.registry import FASTEST, OWN_PORTS, TRANSPORTS
from netloader.transport.staged import StagedBackend

HOST = ["tcp", "gloo", "tcp-sealed"]


def names(device_type: str, *own: Backend) -> list[str]:
    fastest = {"quick": lambda: own[0]} if own else {}
    return [backend.name for backend in backends_for(device_type, fastest=fastest)]


def test_host_memory_travels_as_it_is() -> None:
    assert names("cpu") == HOST
    assert not any(isinstance(backend, StagedBackend) for backend in backends_for("cpu"))


def test_a_device_without_a_library_of_its_own_travels_by_way_of_host_memory() -> None:
    staged = [one for one in backends_for("xpu") if isinstance(one, StagedBackend)]
    assert [one.name for one in staged] == ["gloo"], "TCP stages by itself, what needs it"
    assert names("xpu") == HOST, "its peers may have no device"


def test_a_devices_own_library_comes_first() -> None:
    fast = MemoryBackend()
    assert names("quick", fast) == ["memory", *HOST]


@pytest.mark.parametrize(
    "error", [ImportError("no libhccl"), OSError("no driver"), TransportError("too old")], ids=repr
)
def test_a_library_that_this_machine_lacks_is_left_out(error: Exception) -> None:
    def make() -> Backend:
        raise error

    assert [one.name for one in backends_for("quick", fastest={"quick": make})] == HOST


@pytest.mark.parametrize("device_type", ["cpu", "xpu", "mps", *FASTEST])
def test_every_device_has_a_backend_and_no_two_of_one_name(device_type: str) -> None:
    found = [one.name for one in backends_for(device_type)]
    assert len({*found}) == len(found)
    assert found[-len(HOST) :] == HOST, "two kinds of devices have them in common"


@pytest.mark.parametrize("device_type", ["cpu", "quick"])
def test_where_bytes_must_be_encrypted_nothing_else_is_offered(device_type: str) -> None:
    (backend,) = backends_for(device_type, ["tcp-sealed"], {"quick": MemoryBackend})
    assert backend.name == "tcp-sealed"


def test_the_operators_order_counts() -> None:
    assert [one.name for one in backends_for("cpu", ["gloo", "hccl", "tcp"])] == ["gloo", "tcp"]


def test_where_nothing_that_is_allowed_carries_the_bytes_the_error_says_what_does() -> None:
    with pytest.raises(TransportError, match=r"cpu devices travel by tcp, gloo, tcp-sealed here"):
        backends_for("cpu", ["hccl"])


def test_every_backend_can_be_chosen_by_its_name() -> None:
    assert {one.name for one in backends_for("cpu")} | {"hccl", "nccl"} == {*TRANSPORTS}


def test_where_others_reach_only_chosen_ports_no_backend_needs_another() -> None:
    fastest = {"quick": MemoryBackend}
    names = {one.name for one in backends_for("quick", None, fastest, confined=True)}
    assert names == {"tcp", "tcp-sealed"}
    assert names.isdisjoint(OWN_PORTS)


def test_what_the_operator_names_is_offered_all_the_same() -> None:
    assert [one.name for one in backends_for("cpu", ["gloo"], confined=True)] == ["gloo"]
