"""Claiming the commit that the files are said to be, once they match the hashes by which the Hub's
cache names them."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from netloader.checkpoint import evidence
from netloader.checkpoint.hostcache import HostCache
from netloader.errors import IdentityError
from netloader.identity.identity import Evidence
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.provenance import Provenance

_log = logging.getLogger(__name__)

_SHARE: Final = 0.25
"""Share of the time that may be spent on reading files for this. Only replicas without files wait
for the claim, and the model needs the core and the disk."""


def checked_commit(
    provenance: Provenance, cache: HostCache | None, stopping: threading.Event
) -> str | None:
    """The commit that the weights are proven to match. None, with the reason logged, where there is
    no proof. Takes minutes; ends soon after `stopping` is set."""
    files, commit = provenance.files, provenance.commit
    if files is None or commit is None or Evidence.BLOBS not in provenance.content.known:
        return None
    since = time.monotonic()

    def rest(nbytes: int) -> None:
        nonlocal since
        took = time.monotonic() - since
        if stopping.wait(took * (1 / _SHARE - 1)):
            raise IdentityError("this process ends")
        since = time.monotonic()

    def check() -> str | None:
        wrong = evidence.wrong_blob(files.files, cache, on_read=rest)
        return wrong or evidence.changed_since(files.stamps)

    wrong = attempt(Step.CLAIM, check)
    if wrong is None:
        return commit
    reason = wrong.reason if isinstance(wrong, Failed) else wrong
    _log.warning("not claiming to be %s: %s", commit, reason)
    return None
