"""Whether a session deserves its place when other replicas get none.

Timeouts end a session that stands still. A session that asks for a chunk just before each timeout,
or reads drop by drop, can stay for hours. Its slowness matters only when others are refused: then
the session must have used its place since the last look. Slowness caused by the source's own limit
does not count against a session.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_RATE = 100_000
"""Bytes per second. A hundredth of a 100 Mbit/s network, and a tenth of the least `RATE_LIMIT`: a
gigabyte would take hours, and storage is better for everybody."""

MAX_IDLE = 0.5
"""Share of the time in which a replica may have asked for nothing. A replica that pulls asks for
the next chunk before the last has arrived, and is never idle. A replica that waits for its last
chunk from another source needs no place here."""


@dataclass(frozen=True)
class Usage:
    """What a session has done so far. All counters only grow."""

    at: float
    """When the counters were read, in seconds of a monotonic clock."""
    sent_bytes: int = 0
    """Bytes handed to the replica's connection."""
    idle_s: float = 0.0
    """Seconds with nothing asked for and nothing under way."""
    held_s: float = 0.0
    """Seconds of waiting for the source's own rate limit."""


def waste(before: Usage, now: Usage, period_s: float) -> str | None:
    """Why a session should make room, given what it did between two looks; None when it should not.

    A period shorter than `period_s` is not judged.
    """
    elapsed_s = now.at - before.at
    if elapsed_s < period_s:
        return None
    idle_s = now.idle_s - before.idle_s
    if idle_s > MAX_IDLE * elapsed_s:
        return f"asked for nothing during {idle_s:.3g} of {elapsed_s:.3g} s while others waited"
    own_s = elapsed_s - (now.held_s - before.held_s)
    sent = now.sent_bytes - before.sent_bytes
    # If the session was held for most of the time, the rest says little about the replica.
    if own_s < MAX_IDLE * elapsed_s or sent >= MIN_RATE * own_s:
        return None
    return f"took {sent} bytes in {elapsed_s:.3g} s while others waited"
