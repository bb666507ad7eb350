"""The protocols to compare, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

from netmesh.core.messages import Ack, Exchange, Message, Ping
from netmesh.core.records import Record
from netsim.machine import Changed, Machine, NetmeshSpecies, Species
from netsim.memberlist import STREAM, Memberlist
from netsim.memberlist_settings import MemberlistSettings


class MemberlistSpecies:
    """memberlist with its defaults; without Lifeguard it is plain SWIM."""

    messages_first = False
    timers_run_while_blocked = True

    def __init__(self, *, lifeguard: bool) -> None:
        self.name = "memberlist" if lifeguard else "swim"
        self._settings = MemberlistSettings(lifeguard=lifeguard)

    def make(self, me: Record, rng: Random, changed: Changed) -> Machine:
        """A member that knows nobody."""
        return Memberlist(self._settings, me, rng, changed)

    def acquaint(self, machines: Sequence[Machine], records: Sequence[Record], now: float) -> None:
        """Give all of them the same view at once."""
        model = None
        for machine in machines:
            assert isinstance(machine, Memberlist)
            model = machine.acquaint(model, list(records), now)

    def reliable(self, message: Message) -> bool:
        """Push-pull and the second ping of a probe travel on streams, all others in datagrams."""
        if isinstance(message, Ping | Ack):
            return message.sequence >= STREAM
        return isinstance(message, Exchange)


PROTOCOLS: Mapping[str, Callable[[], Species]] = {
    "netmesh": NetmeshSpecies,
    "memberlist": lambda: MemberlistSpecies(lifeguard=True),
    "swim": lambda: MemberlistSpecies(lifeguard=False),
}
