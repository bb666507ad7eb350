"""When a listener follows a change of the cluster keys: at once, or as soon as possible."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from netmesh import SocketSecurity

_log = logging.getLogger(__name__)


class Rekeying:
    """The keys that are wanted but not in use yet. Belongs to the source's thread."""

    def __init__(
        self,
        rekey: Callable[[SocketSecurity], None],
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rekey` takes new keys into use, as `Listener.rekey` does; `pause_s` lies between two
        attempts."""
        self._rekey = rekey
        self._pause_s = pause_s
        self._clock = clock
        self._wanted: SocketSecurity | None = None
        self._due = 0.0

    @property
    def due_in_s(self) -> float | None:
        """Seconds until the next attempt; None when nothing is to be done."""
        return None if self._wanted is None else max(0.0, self._due - self._clock())

    def want(self, security: SocketSecurity) -> None:
        """Use these keys from the next attempt on, which is due now. The latest keys count."""
        self._wanted, self._due = security, self._clock()

    def attempt(self) -> None:
        """Take the wanted keys into use, if there are any and an attempt is due."""
        if self._wanted is None or self._clock() < self._due:
            return
        try:
            self._rekey(self._wanted)
        except (zmq.ZMQError, OSError) as error:
            # Mostly for lack of descriptors, which sessions give back.
            _log.warning("replicas are still let in by the keys from before: %s", error)
            self._due = self._clock() + self._pause_s
            return
        except ValueError as error:
            _log.error("%s", error)
        self._wanted = None
