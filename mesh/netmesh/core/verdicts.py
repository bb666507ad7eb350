"""Verdicts on members: from evidence to a change, and from changes back to deadlines.

This is SWIM's suspicion with Lifeguard's timeouts, plus a kernel that answers for a process that
cannot.
"""

from __future__ import annotations

from netmesh.core.accusation_limits import AccusationLimits
from netmesh.core.changes import Change, Finding, Telling, apply
from netmesh.core.claims import Claim, head
from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.health import LocalHealth
from netmesh.core.messages import Gossip
from netmesh.core.node import DIAL_GRACE, Node
from netmesh.core.records import MemberId, Record, Status
from netmesh.core.states import Cause
from netmesh.core.suspicion import TINY_MESH, Suspicion, Suspicions
from netmesh.core.timers import Timer


class Verdicts:
    """Concludes changes from evidence, and keeps suspicions in step with the table."""

    def __init__(
        self, node: Node, suspicions: Suspicions, limits: AccusationLimits, health: LocalHealth
    ) -> None:
        self._node = node
        self._health = health
        self.suspicions = suspicions
        self._limits = limits
        self._bad_since: dict[MemberId, float] = {}

    def judge(self, finding: Finding) -> Change | None:
        """The change that follows from my own evidence."""
        node = self._node
        record = node.table.get(finding.member)
        if record is None or record.generation != finding.generation or node.leaving:
            return None
        cause = finding.cause
        crash = (node.id,) if cause is Cause.CRASH_SEEN else ()
        if crash and node.table.size <= TINY_MESH:
            cause = Cause.CRASH_CONFIRMED
        # Nobody accuses a member of being slow.
        witness = () if cause is Cause.PROCESS_SILENT else (node.id,)
        change = apply(record, head(record, witness, crash), (cause,))
        if change is None and record.status is Status.SUSPECT:
            held = cause is Cause.PROCESS_SILENT
            if self.suspicions.confirm(record.id, witness, crash, held=held):
                return self._confirmed(record)
        return change

    def testify(self, claim: Claim) -> Change | None:
        """Count another member's witnesses for a suspicion that runs here."""
        record = self._node.table.get(claim.id)
        known = self.suspicions.confirm(claim.id, claim.accusers, claim.crash, held=claim.held)
        return self._confirmed(record) if known and record is not None else None

    def heard_from(self, record: Record) -> Change | None:
        """Act on a message from a suspect: the path from it works, so the process lives."""
        suspicion = self.suspicions.get(record.id)
        if suspicion is None or suspicion.held:
            return None
        self.suspicions.confirm(record.id, (), (), held=True)
        return self._confirmed(record)

    def patience_over(self, member: MemberId) -> Finding | None:
        """Act on a member that has been stalled for too long."""
        record = self._node.table.get(member)
        if record is None:
            return None
        return Finding(member, record.generation, Cause.PATIENCE_OVER)

    def suspicion_over(self, member: MemberId) -> Change | None:
        """Nobody refuted in time: look one last time before declaring it dead."""
        suspicion = self.suspicions.get(member)
        node = self._node
        if suspicion is None:
            return None
        if node.now - suspicion.bad_since >= node.settings.stall_patience_s:
            return self._declare_dead(member)
        # The deadline comes again when the connect cannot be started now, or when its answer is
        # lost.
        suspicion.looking = node.dial(member)
        wait = DIAL_GRACE if suspicion.looking else 1.0
        again = node.now + wait * node.settings.dial_timeout_s
        node.timers.set((Timer.SUSPICION, member), again)
        return None

    def dialled(self, event: Dialled) -> Change | None:
        """Act on the end of a connect, which may have been the last look at a suspect."""
        suspicion = self.suspicions.get(event.id)
        if suspicion is None or not suspicion.looking:
            return None
        suspicion.looking = False
        if event.outcome is DialOutcome.UNKNOWN:
            # The last look could not be taken; the deadline that is set brings another.
            return None
        record = self._node.table.get(event.id)
        if event.outcome is not DialOutcome.CONNECTED or record is None:
            return self._declare_dead(event.id)
        # A kernel holds the port, so the process is not gone, whatever the path lost before.
        self.suspicions.confirm(event.id, (), (), held=True)
        return self._confirmed(record)

    def tell_watchers(self, finding: Finding) -> None:
        """Tell the other watchers, which saw the same at the same moment: two of us make it
        certain."""
        node = self._node
        member = finding.member
        record = node.table.get(member)
        suspicion = self.suspicions.get(member)
        if record is None or suspicion is None or node.leaving:
            return
        if record.generation != finding.generation:
            return
        claim = suspicion.told(record)
        for watcher in node.table.predecessors(member, node.settings.watch_links):
            if watcher != node.id:
                node.send(watcher, Gossip(node.id, node.generation, (claim,)))

    def follow(self, change: Change) -> Change | None:
        """Keep suspicions and deadlines in step; a suspicion may already amount to a death."""
        node = self._node
        new = change.new
        member = new.id
        if member == node.id:
            return None
        if new.status is Status.ALIVE:
            self._bad_since.pop(member, None)
        else:
            self._bad_since.setdefault(member, node.now)
        if new.status is Status.STALLED:
            until = node.now + node.settings.stall_patience_s
            node.timers.set((Timer.PATIENCE, member), until)
        else:
            node.timers.cancel((Timer.PATIENCE, member))
        if new.status is Status.SUSPECT:
            return self._suspect(change)
        self._acquit(change)
        if not new.status.live:
            self._bad_since.pop(member, None)
        return None

    def _confirmed(self, record: Record) -> Change | None:
        """Tell about a suspicion's new witness, and see whether the witnesses are now enough."""
        suspicion = self.suspicions.get(record.id)
        if suspicion is None:
            return None
        self._node.spread(suspicion.told(record), urgent=bool(suspicion.crash))
        return self._weigh(record, suspicion)

    def _weigh(self, record: Record, suspicion: Suspicion) -> Change | None:
        """Declare a death when enough members saw the suspect crash; else set its deadline."""
        node = self._node
        if self.suspicions.crash_confirmed(record.id, node.table.size, node.id):
            claim = head(record, suspicion.accusers, suspicion.crash)
            return apply(record, claim, (Cause.CRASH_CONFIRMED,))
        due = self.suspicions.due(record.id, node.table.size, node.id, self._health.multiplier)
        node.timers.set((Timer.SUSPICION, record.id), max(due, node.now))
        return None

    def _declare_dead(self, member: MemberId) -> Change | None:
        node = self._node
        record = node.table.get(member)
        if record is None or member not in self.suspicions or node.leaving:
            return None
        return apply(record, head(record, (node.id,)), (Cause.SUSPICION_OVER,))

    def _suspect(self, change: Change) -> Change | None:
        old, new, claim = change.old, change.new, change.claim
        since = self._bad_since.get(new.id, self._node.now)
        suspicion = self.suspicions.open(new, self._node.now, since)
        # Stalled means that a connect was accepted. One later connect that does not get through
        # proves nothing against the member.
        held = claim.held or (old is not None and old.status is Status.STALLED)
        self.suspicions.confirm(new.id, claim.accusers, claim.crash, held=held)
        if change.telling is Telling.HEARSAY:
            suspicion.hearsay = True
        return self._weigh(new, suspicion)

    def _acquit(self, change: Change) -> None:
        node = self._node
        old, new = change.old, change.new
        suspicion = self.suspicions.close(new.id)
        if suspicion is None:
            return
        node.timers.cancel((Timer.SUSPICION, new.id))
        if suspicion.hearsay:
            return
        if old is not None and new.status is Status.ALIVE and new.generation == old.generation:
            for accuser in suspicion.accusers:
                self._limits.refuted(accuser, node.now)
