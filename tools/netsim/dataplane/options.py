"""The options of a fan-out. The same options give the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings

Policy = Literal["upstream", "naive", "swarm"]

POLICIES: Final[tuple[Policy, ...]] = ("upstream", "naive", "swarm")
"""upstream: everybody pulls all of it from the one source. naive: several sources, but only those
that have everything. swarm: replicas serve each other while they load. Where nobody has anything,
all read storage in the first two."""

PAYLOAD: Final = 1448 / 1514
"""Share of a link's rate that is payload: of an Ethernet frame of 1514 bytes, 14 are Ethernet's, 20
IP's and 32 TCP's. `tc` counts whole frames, so 400 Mbit/s carry 47.8 MB of weights a second."""

CHUNKS: Final = 256
"""How many chunks the weights have, unless the options say so: as 8 GiB of the default 32 MiB."""


@dataclass(frozen=True, slots=True)
class Churn:
    """Replicas are killed, and others start in their places."""

    every_s: float
    kills: int


@dataclass(frozen=True, slots=True)
class FanoutOptions:
    """Everything that determines a run. Times in seconds of virtual time, sizes in bytes."""

    replicas: int
    rate: float
    """Bytes per second of a host's link, frames included, in each direction."""
    nbytes: int
    policy: Policy = "swarm"
    seed: int = 1
    chunk_bytes: int = 0
    """0: as many chunks as `CHUNKS`."""
    placement: tuple[int, ...] = ()
    """How many replicas each host has, from the first on; the rest have a host of their own."""
    rates: Mapping[int, float] = field(default_factory=dict)
    """Bytes per second of hosts with another rate, by number: 0 has the source, 1 the first
    replica."""
    has_source: bool = True
    """Whether somebody has the weights in the beginning."""
    storage_rate: float | None = None
    """Bytes per second of a storage server that all share; None: there is none."""
    storage_loaders: int = 1
    """How many replicas of a swarm read storage where nobody has anything."""
    serve_while_reading: bool = True
    """Whether a tensor that was read from storage can be served before all are."""
    churn: Churn | None = None
    degree: int = PullSettings().max_sources
    """Sources that a replica has sessions with (`MAX_SOURCES`)."""
    sessions: int = SourceSettings().max_sessions
    """Replicas that a source has sessions with (`MAX_SESSIONS`)."""
    latency_s: float = 0.0003
    """One way, as in the simulator of the mesh: a switch hop and two kernels."""
    gossip_s: float = 0.0
    """From a replica's start until the others know of it. Workers join the mesh when they start,
    seconds before they pull."""
    open_s: float = 0.02
    """What opening a session takes: hello, acceptance, rendezvous and the group."""
    local_rate: float = 2e9
    """Bytes per second between processes of one host, all together."""
    pull: PullSettings = field(default_factory=PullSettings)

    @property
    def most_sessions(self) -> int:
        """Upstream's server takes one replica after the other, and lets all of them wait: for the
        makespan that is as if it served all at once."""
        return self.replicas if self.policy == "upstream" else self.sessions

    @property
    def size_of_chunks(self) -> int:
        return self.chunk_bytes or max(1, -(-self.nbytes // CHUNKS))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Bytes of each chunk."""
        size = self.size_of_chunks
        whole, rest = divmod(self.nbytes, size)
        return (size,) * whole + ((rest,) if rest else ())

    @property
    def hosts(self) -> tuple[int, ...]:
        """The host of each replica, from 1 on."""
        counts = [*self.placement, *(1 for _ in range(self.replicas))]
        return tuple(number for number, count in enumerate(counts, 1) for _ in range(count))[
            : self.replicas
        ]
