"""What a run is made from. The same options give the same run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything that decides about a run. Times in seconds of virtual time."""

    scenario: str
    members: int
    seed: int = 1
    protocol: str = "netmesh"
    workers_per_host: int = 8
    """Accelerators of a usual host; they crash together and share an address."""
    advert_bytes: int = 600
    """About what the loader publishes."""
    duration_s: float | None = None
    """How long the fault or the observation lasts; None: what the scenario deems right."""
    faults: int | None = None
    """Members that the fault hits; None: what the scenario deems right for that many members."""
    loss: float | None = None
    """Share of messages lost; None: the scenario's own."""
    spell_s: float = 16.0
    """Scenario slow: how long a slow member stands still at a time."""
    pause_s: float = 1.0
    """Scenario slow: how long it works between two spells."""
    slowness: str = "own"
    """Scenario slow: what stands still. "own": what would in a program of that kind, "io": only
    messages, the deadlines run on, "whole": everything."""
    settle_s: float = 5.0
    """Quiet time before the first fault, in which round trips are learnt."""
    checked: bool = False
    """Every machine checks itself after every event: slow, for tests."""
    through_wire: bool = False
    """Every message is really encoded and decoded: slow, for tests."""
