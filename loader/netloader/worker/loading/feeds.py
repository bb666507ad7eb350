"""Telling the mesh how far a pull is, and which sources bring how much."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from netloader.discovery.advert import Feed
from netloader.discovery.candidate import Process
from netloader.identity.identity import Role
from netloader.replica.observer import Intake
from netloader.worker.loading.speed import Speed
from netloader.worker.progress import Progress

_log = logging.getLogger(__name__)


class Feeds:
    """What others hear of one pull. The thread that runs the pull calls this."""

    def __init__(
        self, progress: Progress, role: Role, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._role: Role = role
        self._clock = clock
        self._looked_at = clock()
        self._speed = Speed(self._looked_at)
        self._speeds: dict[Process, Speed] = {}
        self._has_begun = False
        self._failed = False

    def looked(self, intake: Intake) -> None:
        """Tell how far the pull is (`PullObserver.looked`)."""
        try:
            if not self._failed:
                self._tell(intake)
        except Exception:  # noqa: BLE001
            # The pull itself goes on.
            self._failed = True
            _log.exception("others are no longer told how far the pull is")

    def given_up(self) -> None:
        """Nothing of what had come counts any more."""
        self._progress.tell(self._role, at_once=True, held=0, rate=0, feeds=(), pulling=0)

    def _tell(self, intake: Intake) -> None:
        now = self._clock()
        self._speed.note(now, intake.held)
        for process, nbytes in intake.brought.items():
            self._speeds.setdefault(process, Speed(self._looked_at)).note(now, nbytes)
        self._looked_at = now
        feeds = [
            Feed(
                endpoint=process[0],
                generation=process[1],
                nbytes=nbytes,
                rate=self._speeds[process].rate,
            )
            for process, nbytes in intake.brought.items()
        ]
        feeds.sort(key=lambda feed: (-feed.rate, feed.endpoint))
        begins = bool(feeds) and not self._has_begun
        self._has_begun = self._has_begun or begins
        self._progress.tell(
            self._role,
            # A source that comes and goes again and again is told of as everything else.
            at_once=begins or intake.over,
            held=intake.held,
            rate=self._speed.rate if feeds else 0,
            feeds=tuple(feeds),
            pulling=len(feeds),
        )
