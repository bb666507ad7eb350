"""Why a member is alone although somebody is where it looks for others: found out, and told once.

Runs on a thread of its own, because it connects, and waits for answers that may never come.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import zmq

from netmesh.address import Address
from netmesh.core.messages import NOBODY, Message, Observe
from netmesh.core.records import Generation
from netmesh.core.wire import Codec
from netmesh.errors import RemoteProtocolError
from netmesh.io.security import SocketSecurity
from netmesh.io.whois import complaint

FIRST_S = 5.0
"""How long a member may be alone before somebody asks why: joining takes far less."""

MOST_S = 600.0
"""The pause doubles up to here: who is alone for long may be meant to be."""


class SeedDoubts:
    """Looks at the contacts that never answered, for as long as their member is alone."""

    def __init__(
        self,
        security: Callable[[], SocketSecurity],
        codec: Codec,
        alone: Callable[[], bool],
        log: logging.Logger,
        *,
        first_s: float = FIRST_S,
        patience_s: float = 1.0,
    ) -> None:
        """`patience_s` bounds each step of looking at one address."""
        self._security = security
        self._codec = codec
        self._alone = alone
        self._log = log
        self._first_s = first_s
        self._patience_s = patience_s
        self._stop = threading.Event()
        self._contacts: Sequence[Address] = ()
        self._told: set[Address] = set()

    def start(self) -> None:
        threading.Thread(target=self._run, name="netmesh-doubts", daemon=True).start()

    def stop(self) -> None:
        """Ask the thread to end. Does not wait for somebody who does not answer."""
        self._stop.set()

    def found(self, contacts: Sequence[Address]) -> None:
        """Any thread: members are looked for at these addresses."""
        self._contacts = contacts

    def look(self) -> None:
        """Tell about each contact that is none of ours, once. Blocks for some seconds each."""
        for address in self._contacts:
            if self._stop.is_set() or not self._alone():
                return
            if address in self._told:
                continue
            try:
                why = complaint(address, self._security(), self._answers, self._patience_s)
            except (zmq.ZMQError, OSError) as error:  # mostly for lack of descriptors
                self._log.debug("mesh: %s was not looked at: %s", address, error)
                return
            if why is not None:
                self._told.add(address)
                self._log.warning("mesh: no member is known yet, and %s %s", address, why)

    def _run(self) -> None:
        pause_s = self._first_s
        while not self._stop.wait(pause_s):
            self.look()
            pause_s = min(2 * pause_s, MOST_S)

    def _answers(self, dealer: zmq.Socket[bytes]) -> bool:
        question: Message = Observe(NOBODY, Generation(0), 0)
        dealer.send_multipart(list(self._codec.encode(question)))
        if not dealer.poll(int(self._patience_s * 1000)):
            return False
        try:
            self._codec.decode(dealer.recv_multipart())
        except RemoteProtocolError:
            return False
        return True
