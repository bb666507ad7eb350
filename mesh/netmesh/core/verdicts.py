"""Judging members: from evidence to a verdict, and from the table back to deadlines."""

from __future__ import annotations

from netmesh.core.accusation_limits import AccusationLimits
from netmesh.core.claims import Claim, head
from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.health import LocalHealth
from netmesh.core.messages import Gossip
from netmesh.core.node import DIAL_GRACE, Node
from netmesh.core.records import MemberId, Record, Status
from netmesh.core.states import Cause, after
from netmesh.core.suspicion import Suspicions
from netmesh.core.timers import Timer


class Verdicts:
    """Applies the transition table, and keeps suspicions in step with the membership table."""

    def __init__(
        self, node: Node, suspicions: Suspicions, accusers: AccusationLimits, health: LocalHealth
    ) -> None:
        self._node = node
        self._health = health
        self.suspicions = suspicions
        self._accusers = accusers
        self._bad_since: dict[MemberId, float] = {}
        node.on_change.append(self._changed)

    def judge(self, member: MemberId, generation: int, cause: Cause) -> None:
        """I found this out myself about that process."""
        node = self._node
        record = node.table.get(member)
        if record is None or record.generation != generation or node.leaving:
            return
        crash = (node.id,) if cause is Cause.CRASH_SEEN else ()
        if cause is Cause.CRASH_SEEN and node.table.size <= 3:
            cause = Cause.CRASH_CONFIRMED
        status = after(record.status, cause)
        if status is not record.status:
            accusers = () if status is Status.STALLED else (node.id,)
            self._pronounce(record, status, accusers, crash)
        elif record.status is Status.SUSPECT:
            held = cause is Cause.PROCESS_SILENT
            if self.suspicions.confirm(member, () if held else (node.id,), crash, held=held):
                self._confirmed(record)
        if crash and node.table.live(member):
            self._tell_watchers(member)

    def heard_from(self, record: Record) -> None:
        """A message of a suspect came in: the path from it works, so the process lives."""
        suspicion = self.suspicions.get(record.id)
        if suspicion is not None and not suspicion.held:
            self.suspicions.confirm(record.id, (), (), held=True)
            self._confirmed(record)

    def _pronounce(
        self,
        record: Record,
        status: Status,
        accusers: tuple[MemberId, ...],
        crash: tuple[MemberId, ...],
    ) -> None:
        node = self._node
        new = Record(
            record.id,
            record.generation,
            record.incarnation,
            status,
            record.version,
            record.advert,
        )
        node.change(record, new, head(new, accusers, crash))

    def _confirmed(self, record: Record) -> None:
        """The suspicion has a new witness: tell it, and see whether that is enough."""
        node = self._node
        suspicion = self.suspicions.get(record.id)
        if suspicion is None:
            return
        node.spread(suspicion.told(record), urgent=bool(suspicion.crash))
        self._weigh(record)

    def _weigh(self, record: Record) -> None:
        """Bury a suspect that enough members saw crash, else set its deadline."""
        node = self._node
        suspicion = self.suspicions.get(record.id)
        if suspicion is None:
            return
        if self.suspicions.crash_confirmed(record.id, node.table.size, node.id):
            status = after(record.status, Cause.CRASH_CONFIRMED)
            self._pronounce(record, status, suspicion.accusers, suspicion.crash)
            return
        due = self.suspicions.due(record.id, node.table.size, node.id, self._health.multiplier)
        node.timers.set((Timer.SUSPICION, record.id), max(due, node.now))

    def _tell_watchers(self, member: MemberId) -> None:
        """The others that watch it saw the same at the same moment: two of us make it certain."""
        node = self._node
        record = node.table.get(member)
        suspicion = self.suspicions.get(member)
        if record is None or suspicion is None:
            return
        claim = suspicion.told(record)
        for watcher in node.table.predecessors(member, node.settings.watch_links):
            if watcher != node.id:
                node.send(watcher, Gossip(node.id, node.generation, (claim,)))

    def suspicion_over(self, member: MemberId) -> None:
        """Nobody refuted in time: look one last time before burying."""
        suspicion = self.suspicions.get(member)
        node = self._node
        if suspicion is None:
            return
        if node.now - suspicion.bad_since >= node.settings.stall_patience_s:
            self._bury(member)
            return
        # Comes again when the connect cannot be started now, or when its answer got lost.
        suspicion.looking = node.dial(member)
        wait = DIAL_GRACE if suspicion.looking else 1.0
        again = node.now + wait * node.settings.dial_timeout_s
        node.timers.set((Timer.SUSPICION, member), again)

    def patience_over(self, member: MemberId) -> None:
        """It has been stalled for too long."""
        record = self._node.table.get(member)
        if record is not None:
            self.judge(member, record.generation, Cause.PATIENCE_OVER)

    def dialled(self, event: Dialled) -> None:
        """A connect ended; perhaps it was the last look at a suspect."""
        suspicion = self.suspicions.get(event.id)
        if suspicion is not None and suspicion.looking:
            suspicion.looking = False
            self._looked(event.id, event.outcome)

    def _looked(self, member: MemberId, outcome: DialOutcome) -> None:
        record = self._node.table.get(member)
        if outcome is not DialOutcome.CONNECTED:
            self._bury(member)
        elif record is not None:
            # A kernel holds the port: not gone, whatever the path lost before.
            self.suspicions.confirm(member, (), (), held=True)
            self._confirmed(record)

    def _bury(self, member: MemberId) -> None:
        node = self._node
        record = node.table.get(member)
        suspicion = self.suspicions.get(member)
        if record is None or suspicion is None or node.leaving:
            return
        status = after(record.status, Cause.SUSPICION_OVER)
        self._pronounce(record, status, (node.id,), ())

    def _changed(self, old: Record | None, new: Record, claim: Claim) -> None:
        """Keep suspicions and deadlines in step with the table."""
        node = self._node
        member = new.id
        if member == node.id:
            return
        if new.status is Status.ALIVE:
            self._bad_since.pop(member, None)
        else:
            self._bad_since.setdefault(member, node.now)
        if new.status is Status.SUSPECT:
            self._suspect(old, new, claim)
        else:
            self._acquit(old, new)
        if new.status is Status.STALLED:
            if old is not new:
                until = node.now + node.settings.stall_patience_s
                node.timers.set((Timer.PATIENCE, member), until)
        else:
            node.timers.cancel((Timer.PATIENCE, member))
        if not new.status.live:
            self._bad_since.pop(member, None)

    def _suspect(self, old: Record | None, new: Record, claim: Claim) -> None:
        self.suspicions.open(new, self._node.now, self._bad_since.get(new.id, self._node.now))
        # Stalled means that a connect was accepted; the first that does not get through since
        # proves nothing against it.
        held = claim.held or (old is not None and old.status is Status.STALLED)
        self.suspicions.confirm(new.id, claim.accusers, claim.crash, held=held)
        self._weigh(new)

    def _acquit(self, old: Record | None, new: Record) -> None:
        node = self._node
        suspicion = self.suspicions.close(new.id)
        if suspicion is None:
            return
        node.timers.cancel((Timer.SUSPICION, new.id))
        if suspicion.hearsay:
            return
        if old is not None and new.status is Status.ALIVE and new.generation == old.generation:
            for accuser in suspicion.accusers:
                self._accusers.refuted(accuser, node.now)
