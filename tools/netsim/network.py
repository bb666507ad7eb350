"""What happens to a message, or to a connect, between two members."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from netmesh.core.records import MemberId


@dataclass(frozen=True, slots=True)
class LinkQuality:
    """One direction of the path between two members. Times in seconds, the rest probabilities."""

    latency_s: float = 0.0003
    """Shortest time on the way: about one switch hop and two kernels."""
    jitter_s: float = 0.0005
    """Mean of the exponential part on top. Timeouts must allow for its tail."""
    loss: float = 0.0
    """Messages that never arrive. TCP would bring them later, so this assumption is harsher. It is
    right for the datagrams of the comparison protocols."""
    duplication: float = 0.0
    reordering: float = 0.0
    """Messages held back by `held_s`, so that later ones overtake them."""
    held_s: float = 0.05
    resend_s: float = 0.2
    """Delay from a loss on a reliable stream: the kernel's first retransmission."""

    def delay(self, rng: Random) -> float:
        """One draw of the time on the way."""
        return self.latency_s + rng.expovariate(1.0) * self.jitter_s


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """While a block is in place, no message gets from any of `sources` to any of `targets`."""

    sources: frozenset[MemberId]
    targets: frozenset[MemberId]

    def stops(self, source: MemberId, target: MemberId) -> bool:
        """True when this direction is blocked."""
        return source in self.sources and target in self.targets


@dataclass(slots=True)
class Network:
    """All links. Each fault is counted where it happens, so that a scenario can prove it."""

    rng: Random
    link: LinkQuality = field(default_factory=LinkQuality)
    special: dict[tuple[MemberId, MemberId], LinkQuality] = field(default_factory=dict)
    """Links that differ from `link`, by direction."""
    blocks: list[Block] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    held: int = 0
    blocked: int = 0

    def open(self, source: MemberId, target: MemberId) -> bool:
        """True when no block stops this direction."""
        return not any(block.stops(source, target) for block in self.blocks)

    def both_ways(self, a: MemberId, b: MemberId) -> bool:
        """True when a connection between the two can live."""
        return not self.blocks or (self.open(a, b) and self.open(b, a))

    def delays(self, source: MemberId, target: MemberId, *, reliable: bool) -> tuple[float, ...]:
        """Seconds on the way of each copy that arrives; empty when none does."""
        if self.blocks and not self.open(source, target):
            self.blocked += 1
            return ()
        link = self.special.get((source, target), self.link) if self.special else self.link
        rng = self.rng
        extra = 0.0
        if link.loss and rng.random() < link.loss:
            self.lost += 1
            if not reliable:
                return ()
            extra = link.resend_s
        wait = link.latency_s + rng.expovariate(1.0) * link.jitter_s + extra
        if link.reordering and rng.random() < link.reordering:
            self.held += 1
            wait += link.held_s
        if link.duplication and rng.random() < link.duplication:
            self.duplicated += 1
            return (wait, link.delay(rng))
        return (wait,)

    def connects(self, source: MemberId, target: MemberId) -> float | None:
        """Seconds until the kernels have shaken hands; None when a packet of it is lost."""
        if self.blocks and not self.both_ways(source, target):
            self.blocked += 1
            return None
        there = self.special.get((source, target), self.link)
        back = self.special.get((target, source), self.link)
        rng = self.rng
        for link in (there, back):
            if link.loss and rng.random() < link.loss:
                self.lost += 1
                return None
        return there.delay(rng) + back.delay(rng)
