"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

COVERED: Final[Mapping[str, tuple[str, ...]]] = {
    "wire": ("netmesh.core.wire", "netmesh.core.fields", "netmesh.core.messages"),
    "engine": ("netmesh.core",),
    "control": ("netloader.protocol", "netloader.plain"),
    "manifest": ("netloader.weights.manifest",),
    "advert": ("netloader.discovery.advert", "netloader.plain"),
    "recording": ("mesh_inspect.recording.lines",),
    "entry": ("netmesh.bootstrap.directory", "netmesh.address"),
    "upstream": ("netloader.upstream.messages",),
    "rendezvous": ("netloader.transport.store", "netloader.transport.arrivals"),
    "lane": ("netloader.transport.lane",),
    "sealed": ("netloader.transport.sealed", "netloader.transport.lane"),
    "turns": ("netloader.transport.turns",),
}
"""The modules whose edges guide the fuzzer. After each input libFuzzer looks at the counters of all
of them, so more modules than needed make an input cost three times as much."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    name: str
    check: Callable[[bytes], bool]
    """True: accepted, False: refused. Any exception is a finding."""
    seeds: tuple[bytes, ...]
    head: int
    """Bytes before the JSON part of an input."""
