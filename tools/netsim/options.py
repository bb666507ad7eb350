"""The options of a run. The same options give the same run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything that determines a run. Times in seconds of virtual time."""

    scenario: str
    members: int
    seed: int = 1
    protocol: str = "netmesh"
    workers_per_host: int = 8
    """Accelerators of a usual host; its workers crash together and share an address."""
    advert_bytes: int = 600
    """About the size of the loader's adverts."""
    duration_s: float | None = None
    """How long the fault or the observation lasts; None: the scenario's own."""
    faults: int | None = None
    """Members that the fault hits; None: the scenario's own, for that many members."""
    loss: float | None = None
    """Share of messages lost; None: the scenario's own."""
    spell_s: float = 16.0
    """Scenario slow: how long a slow member stands still at a time."""
    pause_s: float = 1.0
    """Scenario slow: how long a slow member works between two spells."""
    slowness: str = "own"
    """Scenario slow: what stands still. "own": the same as in a real program of that kind. "io":
    only messages, while deadlines run on. "whole": everything."""
    settle_s: float = 5.0
    """Quiet time before the first fault, in which members learn round trips."""
    checked: bool = False
    """Every machine checks itself after every event. Slow, for tests."""
    through_wire: bool = False
    """Every message is really encoded and decoded. Slow, for tests."""
