"""The limits of one pull: how long it waits, how much it asks for at once, whom it asks again."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from netloader.terms import TRANSFER_TIMEOUT_S, TransferTimeout

Seconds = Annotated[float, Field(gt=0, le=3600)]
Count = Annotated[int, Field(ge=1)]

_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class HandshakeSettings:
    """The first exchange with a source."""

    hello_timeout_s: Seconds = 10.0
    """Seconds that a source may take to answer hello; `PullSettings.timeout_s` where that is less.
    The answer comes from a Python thread, which waits while another one holds the interpreter: a
    compilation or a graph capture does so for seconds. A replica with other sources and storage
    gains nothing by waiting longer."""

    connect_timeout_s: Seconds = 2.5
    """Seconds that a source may take to accept a TCP connection, at its control port and at the
    data port of a session: a few round trips, and one lost SYN, which is sent again after 1 s."""

    short_connect_s: Seconds = 1.0
    """The same once another source's port of that kind did not answer and nobody has delivered
    anything: a lost SYN is then less likely than a firewall, and others wait to be tried."""

    greeting_timeout_s: Seconds = 1.0
    """Seconds that an accepted connection may stay without a greeting. ZeroMQ greets within a
    millisecond, from a thread of its own, even when Python is held up. A peer that does not greet
    is not a source."""

    rounds: Count = 5
    """How often all keys are tried. A source cuts a connection whose key it no longer accepts, or
    that arrives between two keys: once for each step of a rotation, and two steps can fall into one
    handshake. While earlier sessions keep the source's earlier socket, that socket may accept
    too."""

    round_pause_s: Seconds = 0.1
    """Seconds between rounds, so that a source that is going down has gone."""

    held_up_s: Seconds = 1.0
    """Seconds after which a cut handshake means that the source was held up; the replica then tries
    the same key again. A source that refuses a key does so at once."""

    rendezvous_timeout_s: Seconds = 10.0
    """Seconds that opening the process group may take; `PullSettings.timeout_s` where that is less.
    Opening needs milliseconds, or seconds when a host is busy."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class WindowSettings:
    """How much is in flight. All counts are chunks, from one source."""

    seconds: Seconds = 0.25
    """A source has as much in flight as it delivers in this many seconds. A deep window mostly
    costs no memory, and a sender must find its next receives posted: with a third of this window a
    fast pair moved an eighth less. But no other source can bring what one has in flight."""

    min_chunks: Count = 4
    """The least in flight, however slow the source is. Of four, one arrives, one follows at once,
    and two bridge the round trip until the next are asked for."""

    max_chunks: Count = 32
    """The most in flight, however fast the source is, so that the others get a share of what is
    left. This limit holds even where `min_chunks` is larger."""

    first_chunks: Count = 3
    """The most in flight before the source has delivered anything, so that the first source to
    answer does not take all of a small model."""

    staging_bytes: Count = 384 * 1024 * 1024
    """Bytes of staging memory for the chunks in flight from all sources, or room for `min_chunks`
    of the model's chunks where that is more. A start can spare a third of a GiB."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class SwarmSettings:
    """How much is in flight while other replicas pull as well."""

    ahead_s: Seconds = 0.01
    """Beside the one chunk that is arriving, as much is asked of a source as arrives in this time:
    a round trip, and two threads that wake up. What waits at a source cannot be asked of another,
    and a chunk that arrives late is served late: with two chunks in flight from each source,
    `netsim fanout` to 8 replicas took 7 % longer than with one."""

    near_s: Seconds = 0.005
    """Seconds for which a chunk that falls to another replica of this host is left to it: a few
    messages on loopback, and a thread that wakes up."""

    near_patience_s: Seconds = 5.0
    """Seconds for which a chunk that another replica of this host is getting is waited for: longer
    than 64 MiB take over a quarter of 1 Gbit/s, and shorter than any pull's budget. After that,
    whoever is stopped halfway no longer keeps its neighbours from fetching the chunk."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class EndGameSettings:
    """When a source is dropped because idle ones would bring its chunks in flight sooner."""

    times_sooner: Annotated[float, Field(ge=1, le=1000)] = 2.0
    """Idle sources must be this many times sooner, because rates are estimates ..."""

    seconds_sooner: Seconds = 0.1
    """... and by this many seconds more, because a new request costs a round trip."""

    first_patience_s: Seconds = 1.0
    """Seconds that a source may be silent when neither it nor the idle ones have ever delivered.
    The time doubles with each drop: perhaps all are slow, and a chunk takes its time."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class RetrySettings:
    """When a source is asked again."""

    max_losses: Count = 2
    """How often a source may be lost without delivering anything in between. A second loss is not
    an accident."""

    backoff_s: Seconds = 1.0
    """Seconds before a lost source is asked again, doubled with each loss. A restart or a cut link
    takes at least as long."""

    min_pause_s: Seconds = 0.1
    """Least seconds before a busy source is asked again, whatever it said: a refusal costs the
    source time."""

    max_alike: Count = 32
    """How many sources may fail in one way, while nobody delivers anything, before the others are
    not tried either. By `short_connect_s`, four at a time, this many take ten seconds."""


@dataclass(frozen=True, kw_only=True, config=_FORBID)
class PullSettings:
    """Raises `pydantic.ValidationError` for a value out of its bounds or an unknown name."""

    timeout_s: TransferTimeout = TRANSFER_TIMEOUT_S
    """Seconds without progress after which a peer is given up. Longer than the longest pause of a
    healthy process: compiling holds the interpreter for seconds."""

    max_sources: Annotated[int, Field(ge=1, le=64)] = 4
    """Sources that a replica pulls from at once. Two fill a link. The others take over at once when
    a source is slow or dies, and spread the load of a fan-out. Each costs two threads and some
    descriptors at either end."""

    source_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds that a pull with no source left waits for another, before storage fills the rest.
    Long enough for a busy source to free a session, or for a restarted one to be back."""

    peer_budget_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Seconds without verified progress, over all sources and all steps from the first look at the
    mesh on, after which storage is read. Enough for a source that is busy or held up to recover,
    and a start that peers cannot help is late by no more than this."""

    min_rate: Annotated[int, Field(ge=1)] = 10_000_000
    """Bytes per second that storage is taken to bring, where this host has not measured more: a
    pull that would end later than storage would gives way to it, `PEER_BUDGET` granted. The default
    is a tenth of a hard disk or of a 1 Gbit/s link."""

    verify: bool = True
    """Whether a replica compares the digest of each arriving chunk with the promised one. Turning
    it off saves a read of every byte, and lets damaged bytes into the model."""

    look_s: Seconds = 0.25
    """Seconds between two looks at the candidates, while there is room for one more, and at sources
    that could be dropped. Both looks are cheap, and can save seconds."""

    first_look_s: Seconds = 0.05
    """Seconds between the first looks of a pull: replicas that start together become sources for
    each other in the first moments. With the age of the pull this grows to `look_s`."""

    idle_s: Seconds = 0.02
    """Seconds after which a stream without work looks for some, although its source says nothing:
    another source may be lost, or slower than it was. Twice as long after each look in vain."""

    longest_idle_s: Seconds = 0.08
    """Seconds between two such looks at most. A swarm of eight has 56 streams, most of which wait
    for their sources' words most of the time."""

    uninteresting_s: Seconds = 2.0
    """Seconds after which a source that is still loading makes room for another one, if it has
    nothing that is missing here."""

    last_words_s: Seconds = 0.2
    """Seconds in which a source that broke the process group may say why. Unless the source died,
    its reason comes at once."""

    handshake: HandshakeSettings = field(default_factory=HandshakeSettings)
    window: WindowSettings = field(default_factory=WindowSettings)
    end_game: EndGameSettings = field(default_factory=EndGameSettings)
    swarm: SwarmSettings = field(default_factory=SwarmSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)

    def until_next_look_s(self, age_s: float) -> float:
        """Seconds to the next look of a pull that began `age_s` ago."""
        return min(self.look_s, max(self.first_look_s, age_s / 4))

    @property
    def hello_timeout_s(self) -> float:
        """Seconds that a source may take to answer hello."""
        return min(self.handshake.hello_timeout_s, self.timeout_s)

    @property
    def rendezvous_timeout_s(self) -> float:
        """Seconds that opening the process group may take."""
        return min(self.handshake.rendezvous_timeout_s, self.timeout_s)
