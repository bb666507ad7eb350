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
    """After which a replica is given up."""

    max_sessions: Annotated[int, Field(ge=1, le=64)] = 4
    """Replicas that are served at once (`MAX_SESSIONS`). Two streams fill a link: more only make
    each slower, and replicas that are refused here pull from those that were served. Each session
    costs two threads and some descriptors at either end."""

    min_ending: Count = 16
    """Sessions that may be ending at once, beside those that are served; `max_sessions` where that
    is more. Closing a Gloo group takes some ten milliseconds, in which several small pulls can
    begin and end. When a replica leaves halfway through a message, closing takes until the timeout:
    one that does so again and again must not gather threads, descriptors and staging memory."""

    retry_after_s: Seconds = 1.0
    """Seconds after which a refused replica is told to ask again: what a short pull takes."""

    eviction_period_s: Seconds | None = None
    """Seconds over which a session is judged when others wait for its place. None: `timeout_s`,
    after which a session that does nothing at all has ended by itself."""

    rendezvous_timeout_s: Seconds = 10.0
    """Seconds that an accepted replica may take to open the process group. It needs milliseconds,
    or seconds when its host is busy."""

    handshake_timeout_s: Annotated[float, Field(ge=0.001, le=60)] = 3.0
    """Seconds that a connection may take for ZeroMQ's handshake: strangers hold a descriptor for no
    longer. A source whose thread is held up for longer cuts honest replicas as well, which dial
    again."""

    close_timeout_s: Seconds = 1.0
    """Seconds that a withdrawal waits for sessions which may still read weights. They need
    milliseconds."""

    last_sends_s: Seconds = 1.0
    """Seconds that sends may take once the replica is done. It has received what it wanted: these
    sends are complete but for the transport's own word, and nobody waits for any others."""

    rekey_pause_s: Seconds = 1.0
    """Seconds until a change of keys is tried again that failed for want of descriptors."""

    audit_pause_s: Seconds = 1.0
    """Seconds between two readings of chunks that replicas complain about. 64 MiB take a core some
    milliseconds: complaints cannot keep it busy."""

    manifest_rate: Annotated[float, Field(gt=0)] = float(messages.MAX_ATTACHMENT_BYTES)
    """Bytes per second of manifests that are sent to replicas with another one. They are for the
    replica's log only, and up to 20 MB each: hellos must not keep the source busy with them."""

    window: Count = 64
    """Sends under way at once in a session: nearly always as many as a replica asks for. They take
    no memory where a chunk is sent from where it lies. The transport's thread writes what is queued
    when the link comes free, without waking the session's."""

    staged_chunks: Annotated[int, Field(ge=1, le=64)] = 2
    """Of these, chunks that had to be packed: one is on the wire while the next is packed. Bounds
    the staging memory of a session to so many chunks."""

    max_repeats: Count = 4
    """How often a replica may ask for each chunk, on average. It needs each once: without a bound a
    replica could hold its place for ever by asking for the same one."""

    @property
    def max_ending(self) -> int:
        """Sessions that may be ending at once."""
        return max(self.min_ending, self.max_sessions)
