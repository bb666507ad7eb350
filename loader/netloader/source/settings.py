"""The limits of one source: what it allows a replica, and how long it waits for one."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from netloader.protocol import messages
from netloader.terms import TRANSFER_TIMEOUT_S, TransferTimeout

Seconds = Annotated[float, Field(gt=0, le=3600)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SourceSettings:
    """Raises `pydantic.ValidationError` for a value out of its bounds or an unknown name."""

    timeout_s: TransferTimeout = TRANSFER_TIMEOUT_S
    """When others wait, a replica that uses its place little for this long must make room: it asks
    for nothing more than half of the time, or takes less than 100 kB/s although `RATE_LIMIT` allows
    more."""

    max_sessions: Annotated[int, Field(ge=1, le=64)] = 4
    """Replicas that one source serves at once. Others are told to ask again in a second, and ask
    another source meanwhile. Two streams fill a link: more only make each slower, and refused
    replicas pull from those that were served. Each session costs two threads and some descriptors
    at either end."""

    fabric: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Label of the network that this worker's transfers use. Workers with different labels never
    transfer; one without a label may with all. Default: none."""

    min_ending: Count = 16
    """Sessions that may be ending at once, beside those that are served; `max_sessions` where that
    is more. Closing a Gloo group takes some ten milliseconds, in which several small pulls can
    begin and end. When a replica leaves halfway through a message, closing takes until the timeout:
    a replica that does so repeatedly must not pile up threads, descriptors and staging memory."""

    retry_after_s: Seconds = 1.0
    """Seconds after which a refused replica is told to ask again: the length of a short pull."""

    eviction_period_s: Seconds | None = None
    """Seconds over which a session is judged when others wait for its place. None: `timeout_s`,
    after which a session that does nothing at all has ended by itself."""

    rendezvous_timeout_s: Seconds = 10.0
    """Seconds that an accepted replica may take to open the process group. Opening needs
    milliseconds, or seconds when the replica's host is busy."""

    handshake_timeout_s: Annotated[float, Field(ge=0.001, le=60)] = 3.0
    """Seconds that a connection may take for ZeroMQ's handshake, so that strangers hold a
    descriptor no longer. A source whose thread is held up for longer also cuts honest replicas,
    which dial again."""

    close_timeout_s: Seconds = 1.0
    """Seconds that a withdrawal waits for sessions that may still read weights. They need
    milliseconds."""

    hold_s: Seconds = 2.0
    """Seconds that post-processing waits for chunks under way, when sessions shall outlive it. A
    start can spare them, and a chunk needs them only on a slow network."""

    last_sends_s: Seconds = 1.0
    """Seconds that sends may take once the replica is done. The replica has received what it
    wanted: these sends lack only the transport's confirmation, and nobody waits for any others."""

    rekey_pause_s: Seconds = 1.0
    """Seconds until a change of keys that failed for lack of descriptors is tried again."""

    audit_pause_s: Seconds = 1.0
    """Seconds between two readings of chunks that replicas complain about. Reading 64 MiB takes a
    core some milliseconds, so complaints cannot keep it busy."""

    manifest_rate: Annotated[float, Field(gt=0)] = float(messages.MAX_ATTACHMENT_BYTES)
    """Bytes per second of manifests sent to replicas whose manifest differs. They serve only the
    replica's log, and take up to 20 MB each, so hellos must not keep the source busy with them."""

    window: Count = 64
    """Sends under way at once in a session: nearly always as many as a replica asks for. They take
    no memory where a chunk is sent from where it lies. The transport's thread writes queued sends
    when the link comes free, without waking the session's thread."""

    staged_chunks: Annotated[int, Field(ge=1, le=64)] = 2
    """Of these sends, chunks that had to be packed: one is on the wire while the next is packed.
    Bounds the staging memory of a session to this many chunks."""

    max_repeats: Count = 4
    """How often a replica may ask for each chunk, on average. A replica needs each chunk once;
    without a bound it could hold its place for ever by asking for the same one."""

    @property
    def max_ending(self) -> int:
        """Sessions that may be ending at once."""
        return max(self.min_ending, self.max_sessions)
