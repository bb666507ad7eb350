"""Numbers of the protocol: each with its unit, default and reason.

docs/reference/protocol.md explains them. Members of one mesh may run with different values; the
table stays correct, only timing differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from netmesh.core.backoff import backed_off, shared


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """Times are seconds, sizes are bytes, the rest are counts."""

    # Failure detection
    probe_interval_s: float = 1.0
    """Time between probes of the shuffled list: N members share the load evenly."""
    watch_probe_interval_s: float = 0.5
    """Time between probes of the watched ring successors. Bounds the time until a *stalled* member
    is noticed, because a stall breaks no connection. 4 watchers x 2 s: p99 about 1.4 s."""
    probe_timeout_min_s: float = 0.2
    """Below this a garbage collection pause looks like a failure."""
    probe_timeout_max_s: float = 1.0
    """Above this the next probe would be due."""
    rtt_factor: float = 4.0
    """Ratio of the timeout to the recent p99 round trip."""
    indirect_probes: int = 3
    indirect_all_below: int = 9
    """With fewer members than this, ask all of them: 3 of so few prove little."""
    indirect_timeout_factor: float = 2.0
    """Multiple of the direct timeout, which covers one path; the detour covers two."""
    dial_timeout_s: float = 1.0
    """One SYN and its answer; the kernel's first retransmission comes after 1 s."""
    local_health_max: int = 8
    """Ceiling of the multiplier on probe interval and timeout."""

    # Suspicion
    watch_links: int = 4
    """Ring successors watched; the chance that all watchers die with the watched is negligible."""
    crash_observers: int = 2
    """This many members that saw a refused connection make a death (one, when N <= 3)."""
    stall_patience_s: float = 120.0
    """A stalled member becomes suspect after this time: native code that builds or reads something
    big holds the interpreter for a minute, seldom for two."""
    suspicion_min_factor: float = 2.0
    """Seconds per log10(N). SWIM as usually run takes 4 because a silent process may only be slow;
    here a suspicion starts only when the *kernel* did not answer either."""
    suspicion_max_factor: float = 6.0
    """Ratio of longest to shortest suspicion."""
    confirmations: int = 2
    """Independent accusers after the first that shorten a suspicion to its minimum."""
    bystander_grace_s: float = 2.0
    """Members without evidence of their own wait this much longer, so that members that looked
    themselves declare a death and tell the rest."""
    crowd_triage: int = 16
    """When a host does not answer, at most this many other members on it are checked at once."""

    # Dissemination
    gossip_interval_s: float = 0.2
    gossip_urgent_s: float = 0.05
    """Bad news and refutations are passed on at once, but not more often than this."""
    gossip_fanout: int = 3
    retransmit_factor: int = 4
    gossip_bytes: int = 4096
    """Bytes of claims in one gossip message: about 40 status changes."""
    piggyback_bytes: int = 512
    """Bytes of claims on a ping or ack, which must stay one small segment."""
    rumour_limit: int = 8192
    """Rumours kept; the most often sent ones go first. Anti-entropy repairs what is lost."""
    gossip_to_dead_s: float = 30.0
    announce_interval_s: float = 60.0
    """All members together connect to each dead one this often; a member connects once a second at
    most."""
    announce_most_s: float = 3600.0
    """The pause of `announce_interval_s` grows to this one while the member stays dead."""

    # Anti-entropy
    sync_spacing_s: float = 1.0
    sync_settle_s: float = 2.0
    """A rumour takes this long to reach everybody; only a difference that outlives it is real."""
    sync_patience_s: float = 10.0
    """A sync settles a difference this old even if the table never rests."""
    sync_size_gap: int = 8
    """Tables that differ in size by more than this are compared without waiting."""
    full_digest_limit: int = 64
    page_bytes: int = 96 * 1024
    """Bytes of one page of state; well below the frame limit."""

    # Joining
    join_contacts: int = 3
    join_timeout_s: float = 1.0
    inbound_syncs: int = 8
    """Syncs served per second and at once; further askers are told BUSY and given other members to
    ask."""
    busy_retry_s: float = 0.5
    contact_interval_s: float = 5.0
    """Contacts that are not members here are tried again after this time, so that a split start
    heals. The pause grows while the contact does not answer."""
    contact_alone_s: float = 60.0
    """The longest pause of a member that knows nobody."""
    contact_most_s: float = 600.0
    """The longest pause of all members together, once a member knows others."""
    contact_rest_s: float = 4 * 3600.0
    """The longest pause of one member of a large mesh."""
    contact_limit: int = 64

    # Tombstones and bounds
    dead_shown_s: float = 600.0
    tombstone_s: float = 24 * 3600.0
    tombstone_limit: int = 4096
    member_limit: int = 16384
    """Live members accepted; only a flood brings more."""

    # Accusation limits
    accuser_burst: int = 32
    """Deaths believed from one accuser at once; further ones are only suspicions. A host has fewer
    workers."""
    accuser_per_s: float = 1.0
    accuser_refuted_limit: float = 16.0
    """Refuted accusations, halving every minute, after which an accuser is not believed."""
    accuser_half_life_s: float = 60.0

    # Leaving and waking
    leave_rounds: int = 3
    late_s: float = 0.25
    """When I am woken this much too late, I was the slow one, so nobody else is blamed for that
    time."""

    def announce_pause_s(self, dead_s: float) -> float:
        """Time between two connects of all members to one that has been dead for `dead_s`."""
        return backed_off(dead_s, self.announce_interval_s, self.announce_most_s)

    def contact_pause_s(self, silent_s: float, members: int) -> float:
        """Time between two connects of one of `members` to a contact that does not answer."""
        if members <= 1:
            return backed_off(silent_s, self.contact_interval_s, self.contact_alone_s)
        together = backed_off(silent_s, self.contact_interval_s, self.contact_most_s)
        return shared(together, members, self.contact_rest_s)

    def suspicion_min_s(self, members: int) -> float:
        """Shortest suspicion among `members` live members."""
        return self.suspicion_min_factor * max(1.0, math.log10(max(1, members)))

    def suspicion_max_s(self, members: int) -> float:
        """Longest suspicion among `members` live members, when nobody confirms it."""
        return self.suspicion_max_factor * self.suspicion_min_s(members)

    def retransmits(self, members: int) -> int:
        """How often one member passes on one rumour."""
        return self.retransmit_factor * math.ceil(math.log10(members + 1))
