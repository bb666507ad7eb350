"""What happens in a worker, told to whoever counts it. Knows no metrics library.

The rooms below `worker` tell a `Telemetry` what has happened. The base class does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class PullResult(StrEnum):
    """How a pull ended."""

    COMPLETE = "complete"
    """Every chunk is verified and in place."""
    NO_SOURCE_LEFT = "no-source-left"
    """Sources came, and none is left. Storage is read."""
    MISMATCH = "mismatch"
    """What came does not fit the model. Storage is read."""
    FAULT = "fault"
    """This worker has a fault. Storage is read."""


class Telemetry:
    """Is told what happens, from many threads. No method raises, blocks, or takes long."""

    def pull_started(self) -> None:
        """A replica begins to pull a model from peers."""

    def pull_ended(self, result: PullResult, seconds: float) -> None:
        """A pull has ended."""

    def waited(self, result: str, seconds: float) -> None:
        """A replica has waited for another worker to read storage, until it served (`source`) or
        this one had to read as well (`storage`)."""

    def delivered(self, transport: str, nbytes: int) -> None:
        """A source brought verified bytes over this transport."""

    def stream_ended(self, how: str, unfinished: int) -> None:
        """Pulling from one source has ended. `how` is the name of its outcome; `unfinished` counts
        the chunks that another source must bring."""

    def loaded(self, origin: str, role: str, seconds: float) -> None:
        """A model is filled. `origin` is `peers` or `storage`."""

    def sessions(self, role: str, count: int) -> None:
        """So many replicas are being served now."""

    def session_ended(self, how: str, transport: str, nbytes: int, held_s: float) -> None:
        """A session is over: bytes sent, and the seconds for which the rate limit held it."""

    def refused(self, code: str) -> None:
        """A replica was refused."""

    def mesh(self, members: Mapping[str, int], counters: Mapping[str, int]) -> None:
        """What the mesh looks like now: members by status, and all that it has counted so far."""

    def close(self) -> None:
        """Nothing will be told any more."""


SILENT: Final = Telemetry()
"""Counts nothing."""
