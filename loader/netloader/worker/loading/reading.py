"""Telling the others that this worker reads storage, and how far it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from netloader.identity.identity import Evidence, LazyContent, known
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netloader.worker.loading.sought import Sought
from netloader.worker.loading.speed import Speed

_log = logging.getLogger(__name__)

_LOOK_S: Final = 0.25
"""Seconds between two looks at who else loads the same."""

_PATIENCE: Final = 0.25
"""The part of `PEER_BUDGET` after which others must have heard how far this worker is: they give up
a reader from which nothing comes for all of it."""

_KINDS: Final = (Evidence.BLOBS, Evidence.SAMPLE)
"""Evidence that costs little to read."""


@contextmanager
def told(sought: Sought, share_read: Callable[[], float]) -> Iterator[None]:
    """Covers the time in which storage is read. Others may wait for this worker from then on, until
    it serves or says why not. `share_read` says how much has been read, from 0 to 1."""
    reading = _ReadProgress(sought, share_read)
    reading.start()
    try:
        yield
    except BaseException:
        reading.stop(rate=0)
        raise
    reading.stop(rate=0, held=sought.nbytes)


def introduce(content: LazyContent) -> dict[str, str]:
    """Which content this is, as others compare it. May read a part of the files."""
    for kind in _KINDS:
        content.get(kind)
    # A commit is no more than a claim, which only a source has checked.
    return {kind: text for kind, text in known(content).items() if kind != Evidence.COMMIT}


class _ReadProgress:
    def __init__(self, sought: Sought, share_read: Callable[[], float]) -> None:
        self._sought = sought
        self._share_read = share_read
        self._longest_s = _PATIENCE * sought.worker.config.pull_settings.peer_budget_s
        self._speed = Speed(time.monotonic())
        self._named = False
        self._speaking = threading.Lock()
        """Nothing is said by the thread once this worker says something else."""
        self._over = threading.Event()
        self._thread = TransferThread(self._run, f"{affinity.OURS}reading", stop=self._over.set)

    def start(self) -> None:
        self._say(storage="reading", held=0, rate=0)
        if self._sought.worker.membership.absent:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            # Storage is read all the same. Others give up waiting after a while.
            _log.warning("others are not told how far storage is read: %s", error)

    def stop(self, **last_word: object) -> None:
        with self._speaking:
            self._over.set()
        self._say(**last_word)

    def _run(self) -> None:
        affinity.step_aside(background=True)
        try:
            while not self._over.wait(_LOOK_S):
                self._report()
                self._introduce_in_company()
        except Exception:  # noqa: BLE001
            # A fault here must not show as an uncaught error of the serving process.
            _log.exception("others are no longer told how far storage is read")

    def _report(self) -> None:
        held = int(self._share_read() * self._sought.nbytes)
        self._speed.note(time.monotonic(), held)
        with self._speaking:
            if not self._over.is_set():
                self._sought.worker.progress.tell(
                    self._sought.identity.role,
                    longest_s=self._longest_s,
                    held=held,
                    rate=self._speed.rate,
                )

    def _introduce_in_company(self) -> None:
        """Workers that have just come wait for this one only if they know what it reads."""
        sought = self._sought
        if self._named:
            return
        if sought.worker.peers.survey(sought.identity, sought.transports).company:
            self._named = True
            content = introduce(sought.content)
            with self._speaking:
                if not self._over.is_set():  # A source knows more of it.
                    self._say(content=content)

    def _say(self, **changes: object) -> None:
        self._sought.worker.membership.update(self._sought.identity.role, **changes)
