"""memberlist's numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemberlistSettings:
    """memberlist's LAN defaults. Times in seconds."""

    probe_interval_s: float = 1.0
    probe_timeout_s: float = 0.5
    indirect_checks: int = 3
    gossip_interval_s: float = 0.2
    gossip_nodes: int = 3
    gossip_to_dead_s: float = 30.0
    push_pull_s: float = 30.0
    push_pull_threshold: int = 32
    """Above this many members, each doubling adds one interval."""
    suspicion_mult: int = 4
    suspicion_max_mult: int = 6
    retransmit_mult: int = 4
    awareness_max: int = 8
    udp_bytes: int = 1400
    join_retry_s: float = 5.0
    """memberlist leaves this to its caller; the value is that of our own core."""
    lifeguard: bool = True
    """Local health, suspicions that shrink with confirmations, nacks, telling the suspect first."""

    def suspicion_min_s(self, members: int) -> float:
        """Shortest suspicion."""
        scale = max(1.0, math.log10(max(1, members)))
        return self.suspicion_mult * scale * self.probe_interval_s

    def retransmits(self, members: int) -> int:
        """Copies of one broadcast that one member sends."""
        return self.retransmit_mult * math.ceil(math.log10(members + 1))

    def push_pull_interval_s(self, members: int) -> float:
        """Time between two full exchanges of one member."""
        if members <= self.push_pull_threshold:
            return self.push_pull_s
        doublings = math.ceil(math.log2(members) - math.log2(self.push_pull_threshold))
        return self.push_pull_s * (doublings + 1)
