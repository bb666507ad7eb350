"""Anti-entropy: when and with whom to compare tables, and the three-step exchange.

    small table:  Digest ->            <- Exchange(news, want)   Exchange(wanted) ->
    large table:  Buckets -> <- Digest    Exchange(news, want) -> <- Exchange(wanted)

Each ping and ack carries the root and the size of the sender's table, so equal tables cost nothing.
A difference alone is not a reason to compare: in every healthy mesh a rumour under way makes roots
differ for a second or two.
"""

from __future__ import annotations

from netmesh.core import reconciliation
from netmesh.core.events import Connection
from netmesh.core.ingest import Channel
from netmesh.core.messages import Buckets, Busy, Digest, Exchange, Message
from netmesh.core.node import Node
from netmesh.core.records import MemberId
from netmesh.core.view import MembershipView

ALTERNATIVES = 8
"""Members named to a member that is told BUSY."""


class Admission:
    """Limits how many members are served at a time; a slot is held for a second after its last
    use."""

    __slots__ = ("_slots", "_until")

    HOLD_S = 1.0

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._until: dict[bytes | str, float] = {}

    def admit(self, member: bytes | str, now: float) -> bool:
        """True when `member` (or the observer behind a connection) has a slot or gets one."""
        if member not in self._until and len(self._until) >= self._slots:
            self._until = {who: until for who, until in self._until.items() if until > now}
            if len(self._until) >= self._slots:
                return False
        self._until[member] = now + self.HOLD_S
        return True


class Gate:
    """Whether a difference between two tables is worth a comparison now."""

    __slots__ = ("_differed", "_node", "differs_since", "not_before")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._differed = -1e9
        self.differs_since: float | None = None
        """When another table was first seen to differ. Two members that lack the same record agree
        with each other, so one equal table proves nothing; only the absence of different ones
        does."""
        self.not_before = -1e9
        """Earliest time of the next comparison."""

    def open(self, root: int, size: int, *, eager: bool) -> bool:
        """Take note of another member's root and size; True when I should compare tables with it
        now."""
        node, settings = self._node, self._node.settings
        table, now = node.table, node.now
        if root == table.root:
            if now - self._differed > settings.sync_settle_s:
                self.differs_since = None
            return False
        self._differed = now
        if self.differs_since is None:
            self.differs_since = now
        if now < self.not_before or node.leaving:
            return False
        if eager or abs(size - table.size) > settings.sync_size_gap:
            return True
        age = now - self.differs_since
        # My table has not changed for a while either, so no rumour under way explains the
        # difference.
        settled = now - max(self.differs_since, table.changed_at) >= settings.sync_settle_s
        return settled or age >= settings.sync_patience_s

    def passed(self) -> None:
        """Note that a comparison has started: the next one needs a reason of its own."""
        self.differs_since = None
        self.not_before = self._node.now + self._node.settings.sync_spacing_s


class AntiEntropy:
    """Starts comparisons, and answers those of others."""

    __slots__ = ("_admission", "_node", "_view", "gate")

    def __init__(self, node: Node, view: MembershipView) -> None:
        self._node = node
        self._view = view
        self._admission = Admission(node.settings.inbound_syncs)
        self.gate = Gate(node)

    def observe(self, sender: MemberId, root: int, size: int, *, eager: bool) -> None:
        """Act on a message that summed up the sender's table.

        `eager` means that I am still joining, and every difference counts.
        """
        if self.gate.open(root, size, eager=eager):
            self.start(sender)

    def start(self, peer: MemberId) -> None:
        """Compare tables with that member."""
        node, settings = self._node, self._node.settings
        table = node.table
        self.gate.passed()
        question: Message
        if table.size <= settings.full_digest_limit:
            question = Digest(
                node.id, node.generation, False, (), reconciliation.full_digest(table)
            )
        else:
            hashes = reconciliation.bucket_hashes(table)
            question = Buckets(node.id, node.generation, table.root, table.size, hashes)
        node.send(peer, question)

    def admit(self, sender: MemberId, connection: Connection, sequence: int) -> bool:
        """True when the question may be answered; else the sender is told BUSY."""
        node = self._node
        if self._admission.admit(sender, node.now):
            return True
        retry_s = node.settings.busy_retry_s * (1.0 + node.rng.random())
        others = node.table.sample(node.rng, ALTERNATIVES, frozenset((node.id, sender)))
        claims, _ = reconciliation.records_of(
            node.table, [node.id, *others], node.settings.page_bytes
        )
        busy = Busy(node.id, node.generation, sequence, int(retry_s * 1000), claims)
        node.reply(connection, busy)
        return False

    def busy(self, message: Busy) -> None:
        """Act on BUSY: the other member has too much to do, and its hints are as good as news."""
        wait = min(message.retry_after_ms / 1000.0, self._node.settings.sync_patience_s)
        self.gate.not_before = max(self.gate.not_before, self._node.now + wait)
        self._view.hear(message.claims, Channel.ANTI_ENTROPY, message.sender)

    def on_buckets(self, connection: Connection, message: Buckets) -> None:
        """Answer with a digest of the parts that differ."""
        if not self.admit(message.sender, connection, 0):
            return
        node = self._node
        buckets = reconciliation.differing(node.table, message.hashes)
        named, entries = reconciliation.bucket_digest(node.table, buckets, node.settings.page_bytes)
        node.reply(connection, Digest(node.id, node.generation, True, named, entries))

    def on_digest(self, connection: Connection, message: Digest) -> None:
        """Compare, and tell the other member what it lacks and what I lack."""
        node = self._node
        if not message.answer and not self.admit(message.sender, connection, 0):
            return
        if message.answer and not message.buckets:
            return
        found = reconciliation.compare(
            node.table, message.buckets, message.entries, node.settings.page_bytes
        )
        self._view.hear(found.heads, Channel.ANTI_ENTROPY, message.sender)
        if not found.news and not found.want:
            return
        answer = not message.answer
        told = Exchange(node.id, node.generation, answer, found.news, found.want, found.more)
        self._tell(connection, message.sender, told)

    def on_exchange(self, connection: Connection, message: Exchange) -> None:
        """Take in what I lacked, and hand over what is wanted."""
        node = self._node
        before = node.table.root
        corrections = self._view.hear(
            message.claims, Channel.ANTI_ENTROPY, message.sender, correct=True
        )
        wanted, left_out = reconciliation.records_of(
            node.table, message.want, node.settings.page_bytes
        )
        claims = wanted + tuple(corrections)
        if claims:
            told = Exchange(node.id, node.generation, not message.answer, claims, (), left_out)
            self._tell(connection, message.sender, told)
        if message.more and node.table.root != before:
            # The rest of a large difference follows at once, but only while there is progress.
            self.start(message.sender)

    def _tell(self, connection: Connection, sender: MemberId, told: Exchange) -> None:
        if told.answer:
            self._node.reply(connection, told)
        else:
            self._node.send(sender, told)
