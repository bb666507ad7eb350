"""Which backend carries bytes between devices of which kind."""

from __future__ import annotations

from netloader.transport import backend_for
from netloader.transport.registry import BACKENDS


def test_host_memory_travels_by_gloo() -> None:
    backend = backend_for("cpu")
    assert backend is not None
    assert backend.name == "gloo"


def test_a_device_without_an_entry_has_no_backend() -> None:
    assert backend_for("meta") is None


def test_backends_are_told_apart_by_their_names() -> None:
    names = [make().name for make in BACKENDS.values()]
    assert len({*names}) == len(names)
