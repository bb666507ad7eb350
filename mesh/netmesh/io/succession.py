"""Who takes over from a member that is displaced: the same process, at another port, as another
member.

Only a port that others can reach is of use. Where an operator named the port, or the address is not
one of this host's (somebody forwards to it), no other port leads here, and the member stands back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from netmesh.address import Address
from netmesh.core.engine import Engine
from netmesh.core.records import JsonObject, unpack_advert

MOVES: Final = 3
"""How often a process takes another port. A forger with the key can claim each of them."""


class Succession:
    """Belongs to the shell's thread, except `address`."""

    def __init__(
        self,
        address: Address,
        make: Callable[[Address, JsonObject], Engine],
        move: Callable[[], int],
        log: logging.Logger,
        *,
        is_fixed: bool,
    ) -> None:
        """`make` starts a member at an address; `move` leaves the port for another.
        `is_fixed`: no other port leads here."""
        self._is_fixed = is_fixed
        self._make = make
        self._move = move
        self._log = log
        self._moves = 0
        self._told = False
        self.address = address
        """Where the present member advertises itself."""

    def after(self, displaced: Engine, *, elsewhere: bool) -> Engine | None:
        """The member that takes over, with the same advert; None when there can be none.

        Raises OSError and ZMQError when there is no descriptor for another port.
        """
        old = self.address
        if not elsewhere:
            self._log.warning(
                "mesh: the clock was more than a day ahead when this member started, and others "
                "did not take it in: starting again as %s",
                old,
            )
        elif self._is_fixed or self._moves >= MOVES:
            if not self._told:
                self._told = True
                self._log.warning(
                    "mesh: %s is taken, and no other port leads here: this worker goes on taking "
                    "from others, who do not see it until they reach it there",
                    old,
                )
            return None
        else:
            self.address = Address(old.host, self._move())
            self._moves += 1
            self._log.warning(
                "mesh: %s is taken: this process is the member %s from now on", old, self.address
            )
        me = displaced.record(displaced.id)
        assert me is not None
        return self._make(self.address, unpack_advert(me.advert))
