"""What memberlist makes of claims: alive, suspect, dead, and what it passes on."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from netmesh.core.claims import Claim, whole
from netmesh.core.records import (
    Advert,
    MemberId,
    Record,
    Status,
)
from netmesh.core.timers import Timer, Timers
from netsim.broadcasts import Broadcasts
from netsim.machine import Changed
from netsim.memberlist_settings import MemberlistSettings
from netsim.memberlist_view import MemberlistView, SuspicionTimer


class Believer:
    """The half of a member that keeps its knowledge. It sends nothing itself."""

    def __init__(
        self, settings: MemberlistSettings, me: Record, rng: Random, changed: Changed
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._view = MemberlistView(me, changed)
        self._broadcasts = Broadcasts()
        self._suspicions: dict[MemberId, SuspicionTimer] = {}
        self._timers = Timers()
        self._order: list[MemberId] = [me.id]
        """Whom to probe next; newcomers take a random place."""
        self._awareness = 0
        self._leaving = False
        self._now = 0.0

    @property
    def id(self) -> MemberId:
        """My own id."""
        return self._view.me

    @property
    def size(self) -> int:
        """Members that I take to be alive or suspect, including me."""
        return len(self._view.live)

    @property
    def root(self) -> int:
        """Hash over the live members, for the simulator only."""
        return self._view.root

    @property
    def awareness(self) -> int:
        """Lifeguard's local health: 0 is best."""
        return self._awareness

    def record(self, member: MemberId) -> Record | None:
        """What I know about one member."""
        return self._view.records.get(member)

    def _hear(self, claims: tuple[Claim, ...]) -> None:
        for claim in claims:
            match claim.status:
                case Status.ALIVE:
                    self._alive(claim)
                case Status.SUSPECT:
                    self._suspect(claim)
                case Status.DEAD | Status.LEFT:
                    self._dead(claim)
                case Status.STALLED:
                    pass

    def _merge(self, claims: tuple[Claim, ...]) -> None:
        """Take in another member's table; its dead are only suspects to me."""
        for claim in claims:
            if claim.status in (Status.DEAD, Status.SUSPECT):
                suspect = replace(claim, status=Status.SUSPECT, accusers=(self.id,))
                self._suspect(suspect)
            elif claim.status is Status.LEFT:
                self._dead(claim)
            else:
                self._alive(claim)

    def _alive(self, claim: Claim) -> None:
        old = self._view.records.get(claim.id)
        if claim.advert is None:
            return
        new = Record(
            claim.id,
            claim.generation,
            claim.incarnation,
            Status.ALIVE,
            claim.version,
            claim.advert,
        )
        if claim.id == self.id:
            me = self._view.mine
            if (claim.generation, claim.incarnation) > (me.generation, me.incarnation):
                self._refute(claim.incarnation)
            return
        if old is None:
            place = self._rng.randrange(len(self._order) + 1)
            self._order.append(claim.id)
            self._order[place], self._order[-1] = self._order[-1], self._order[place]
        elif (claim.generation, claim.incarnation) <= (old.generation, old.incarnation):
            return
        self._close(claim.id)
        self._view.put(new, self._now)
        self._tell(whole(new))

    def _suspect(self, claim: Claim) -> None:
        old = self._view.records.get(claim.id)
        if old is None or (claim.generation, claim.incarnation) < (old.generation, old.incarnation):
            return
        accuser = claim.accusers[0] if claim.accusers else claim.id
        running = self._suspicions.get(claim.id)
        if running is not None:
            if running.confirm(accuser):
                self._timers.set((Timer.SUSPICION, claim.id), max(self._now, running.due()))
                self._tell(claim)
            return
        if old.status is not Status.ALIVE:
            return
        if claim.id == self.id:
            self._refute(claim.incarnation)
            return
        settings = self._settings
        low = settings.suspicion_min_s(self.size)
        high = low * (settings.suspicion_max_mult if settings.lifeguard else 1)
        wanted = settings.suspicion_mult - 2
        if self.size - 2 < wanted or not settings.lifeguard:
            wanted = 0
        suspicion = SuspicionTimer(self._now, low, high, wanted, {accuser})
        self._view.put(replace(old, status=Status.SUSPECT), self._now)
        self._suspicions[claim.id] = suspicion
        self._timers.set((Timer.SUSPICION, claim.id), suspicion.due())
        self._tell(claim)

    def _dead(self, claim: Claim) -> None:
        old = self._view.records.get(claim.id)
        if old is None or (claim.generation, claim.incarnation) < (old.generation, old.incarnation):
            return
        if not old.status.live:
            return
        if claim.id == self.id and not self._leaving:
            self._refute(claim.incarnation)
            return
        self._close(claim.id)
        self._view.put(replace(old, status=claim.status), self._now)
        self._tell(claim)

    def _refute(self, accused: int) -> None:
        me = self._view.mine
        new = replace(me, incarnation=max(me.incarnation, accused) + 1)
        self._view.put(new, self._now)
        self._aware(1)
        self._tell(whole(new))

    def _publish(self, advert: Advert) -> None:
        me = self._view.mine
        # memberlist has one counter for refutations and news alike.
        new = replace(me, incarnation=me.incarnation + 1, version=me.version + 1, advert=advert)
        self._view.put(new, self._now)
        self._tell(whole(new))

    def _close(self, member: MemberId) -> None:
        if self._suspicions.pop(member, None) is not None:
            self._timers.cancel((Timer.SUSPICION, member))

    def _aware(self, by: int) -> None:
        if self._settings.lifeguard:
            most = self._settings.awareness_max - 1
            self._awareness = min(most, max(0, self._awareness + by))

    def _tell(self, claim: Claim) -> None:
        self._broadcasts.add(claim)

    def _packet(self, used: int = 0) -> tuple[Claim, ...]:
        room = self._settings.udp_bytes - used
        return self._broadcasts.take(room, self._settings.retransmits(self.size))
