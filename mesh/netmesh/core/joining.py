"""Joining: dial contacts, ask them for their table, and keep asking for ever."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from netmesh.core import reconciliation
from netmesh.core.antientropy import Admission, AntiEntropy
from netmesh.core.claims import whole
from netmesh.core.events import Connection, Dialled, DialOutcome
from netmesh.core.ingest import Channel
from netmesh.core.messages import NOBODY, Busy, Join, Observe, State
from netmesh.core.node import NEVER, Node
from netmesh.core.records import Generation, MemberId
from netmesh.core.timers import Timer
from netmesh.core.view import MembershipView

LOOK_ON_S = 30.0
"""Seconds between two looks at a whole table (1.2 MB for 2,000 members) by somebody whose questions
as a member are void, because another process has its address."""

ATTEMPTS = 3
"""Unanswered questions after which a contact counts as unreachable and is asked only seldom."""


class Stage(Enum):
    """How far joining has come with one contact."""

    NEW = "new"
    DIALLING = "dialling"
    ASKED = "asked"
    ANSWERED = "answered"
    UNREACHABLE = "unreachable"


@dataclass(slots=True)
class Contact:
    """One address that bootstrap found."""

    stage: Stage = Stage.NEW
    attempts: int = 0
    sequence: int = 0
    """Number of the open question."""
    silent_since: float | None = None
    """When it was first found not to answer; None while it does."""
    alias: MemberId | None = None
    """The member that answered there, by its own id."""


class Joining:
    """State of the contacts, and whether this member has joined."""

    __slots__ = (
        "_antientropy",
        "_contacts",
        "_lonely",
        "_looked_at",
        "_node",
        "_observers",
        "_told",
        "_view",
        "joined",
    )

    def __init__(self, node: Node, view: MembershipView, antientropy: AntiEntropy) -> None:
        self._node = node
        self._view = view
        self._antientropy = antientropy
        self._contacts: dict[MemberId, Contact] = {}
        self._observers = Admission(node.settings.inbound_syncs)
        self._looked_at = NEVER
        self._told = False
        self._lonely = True
        self.joined = False

    def found(self, ids: tuple[MemberId, ...]) -> None:
        """Take in the contacts that bootstrap found."""
        node = self._node
        others = (i for i in dict.fromkeys(ids) if i != node.id and node.reaches(i))
        wanted = list(others)[: node.settings.contact_limit]
        for gone in [i for i in self._contacts if i not in wanted]:
            del self._contacts[gone]
            node.timers.cancel((Timer.CONTACT, gone))
        self._told = True
        for contact in wanted:
            if contact not in self._contacts:
                self._contacts[contact] = Contact()
        self._ask_more()
        self._alone()

    def retry(self, member: MemberId) -> None:
        """Ask a contact whose time has come (again)."""
        contact = self._contacts.get(member)
        if contact is None:
            return
        node, settings = self._node, self._node.settings
        again = settings.contact_interval_s * (0.75 + 0.5 * node.rng.random())
        node.timers.set((Timer.CONTACT, member), node.now + again)
        if node.leaving or node.table.live(contact.alias or member):
            contact.stage = Stage.ANSWERED
            contact.silent_since = None
            return
        if contact.stage is Stage.ANSWERED and self.joined:
            # It was a member and is none any more: whether anybody is there, a connect tells.
            contact.stage = Stage.UNREACHABLE
        if contact.stage is Stage.ASKED:
            contact.attempts += 1
            if contact.attempts >= ATTEMPTS:
                self._unreachable(contact)
        if contact.stage is Stage.UNREACHABLE:
            node.timers.set((Timer.CONTACT, member), node.now + self._pause_s(contact))
        else:
            node.timers.set((Timer.CONTACT, member), node.now + settings.join_timeout_s)
        if contact.stage in (Stage.ASKED, Stage.ANSWERED):
            self._ask(member, contact, 0)
        else:
            if contact.stage is Stage.NEW:
                contact.stage = Stage.DIALLING
            node.dial(member)

    def settle(self) -> None:
        """Ask the contacts soon when nobody else is left: pauses are shared only by those that
        live."""
        node = self._node
        lonely = node.table.size == 1
        if lonely and not self._lonely:
            for member, contact in self._contacts.items():
                if contact.stage is Stage.UNREACHABLE:
                    due = node.now + self._pause_s(contact)
                    node.timers.sooner((Timer.CONTACT, member), due)
        self._lonely = lonely

    def dialled(self, event: Dialled) -> None:
        """Act on the end of a connect, which may have been to a contact."""
        contact = self._contacts.get(event.id)
        if contact is None or contact.stage in (Stage.ASKED, Stage.ANSWERED):
            return
        if event.outcome is DialOutcome.UNKNOWN:
            return  # the deadline that is set brings another try
        if event.outcome is DialOutcome.CONNECTED:
            if contact.stage is Stage.DIALLING:
                contact.attempts = 0
            self._ask(event.id, contact, 0)
            if contact.stage is not Stage.UNREACHABLE:
                contact.stage = Stage.ASKED
        else:
            self._unreachable(contact)
            self._ask_more()

    def compare(self) -> None:
        """While joining, ask for roots every second until mine equals a contact's."""
        node = self._node
        if self.joined or node.leaving:
            return
        node.timers.set((Timer.COMPARE, 0), node.now + node.settings.sync_spacing_s)
        live = [c.alias or i for i, c in self._contacts.items() if c.stage is Stage.ANSWERED]
        pool = [i for i in live if node.table.live(i)]
        # Ping a contact, because an equal table there ends the joining, and a random member, to
        # spread the load. The answer tells the other's root, and a difference starts a comparison.
        if pool:
            node.ping(pool[node.rng.randrange(len(pool))], 0)
        for other in node.table.sample(node.rng, 1, frozenset((node.id,))):
            node.ping(other, 0)

    def look_on(self) -> None:
        """Ask for somebody's table as an observer does, if it is time."""
        node = self._node
        if node.now - self._looked_at < LOOK_ON_S:
            return
        self._looked_at = node.now
        for other in node.table.sample(node.rng, 1, frozenset((node.id,))):
            node.send(other, Observe(NOBODY, Generation(0), 0))

    def observe(self, sender: MemberId, root: int) -> None:
        """Act on the sender's root: if it is a contact's and equals mine, I have joined."""
        if self.joined or root != self._node.table.root:
            return
        if any(sender in (i, c.alias) for i, c in self._contacts.items()):
            self._finish(f"joined: {self._node.table.size} members")

    def on_join(self, connection: Connection, message: Join) -> None:
        """Act on a member that wants to join: always take its record, and serve its page when there
        is room."""
        self._view.hear((message.me,), Channel.GOSSIP, message.sender)
        if self._antientropy.admit(message.sender, connection, message.sequence):
            self._page(connection, message.cursor, message.sequence, dead=False)

    def on_observe(self, connection: Connection, message: Observe) -> None:
        """Answer an observer, which also sees the dead."""
        node = self._node
        if not self._observers.admit(connection, node.now):
            retry_ms = int(1000 * node.settings.busy_retry_s * (1.0 + node.rng.random()))
            node.reply(connection, Busy(node.id, node.generation, 0, retry_ms, ()))
            return
        self._page(connection, message.cursor, 0, dead=True)

    def on_state(self, message: State) -> None:
        """Take in a page of a contact's table."""
        node = self._node
        self._answered(message.sequence, message.sender)
        self._view.hear(message.claims, Channel.ANTI_ENTROPY, message.sender)
        if message.cursor is not None and not message.sequence:
            # I asked as an observer.
            node.send(message.sender, Observe(NOBODY, Generation(0), message.cursor))
        elif message.cursor is not None:
            join = Join(
                node.id,
                node.generation,
                message.sequence,
                message.cursor,
                whole(node.me),
            )
            node.send(message.sender, join)
        else:
            self.observe(message.sender, message.root)

    def on_busy(self, message: Busy) -> None:
        """Act on a contact that has no room now but named other members."""
        self._answered(message.sequence, message.sender)

    def _page(self, connection: Connection, cursor: int, sequence: int, *, dead: bool) -> None:
        node, table = self._node, self._node.table
        since = node.now - node.settings.dead_shown_s if dead else None
        claims, following = reconciliation.page(
            table, cursor, node.settings.page_bytes, since=since
        )
        clock_ms = max(0, int(node.clock_ms())) if dead else None
        node.reply(
            connection,
            State(
                node.id,
                node.generation,
                sequence,
                table.root,
                table.size,
                claims,
                following,
                clock_ms,
            ),
        )

    def _answered(self, sequence: int, sender: MemberId) -> None:
        for contact in self._contacts.values():
            if contact.sequence == sequence and sequence:
                contact.alias = sender
                contact.attempts = 0
                contact.silent_since = None
                contact.stage = Stage.ANSWERED
                if not self.joined:
                    self._node.timers.sooner(
                        (Timer.COMPARE, 0),
                        self._node.now + self._node.settings.sync_spacing_s,
                    )

    def _ask(self, member: MemberId, contact: Contact, cursor: int) -> None:
        node = self._node
        contact.sequence = node.sequence()
        node.send(
            member,
            Join(node.id, node.generation, contact.sequence, cursor, whole(node.me)),
        )

    def _ask_more(self) -> None:
        """Keep asking up to three contacts until one has answered; afterwards only those not yet
        met."""
        node = self._node
        busy = sum(
            c.stage in (Stage.DIALLING, Stage.ASKED, Stage.ANSWERED)
            for c in self._contacts.values()
        )
        for member, contact in self._contacts.items():
            if contact.stage is Stage.NEW and (self.joined or busy < node.settings.join_contacts):
                busy += 1
                self.retry(member)
            elif (Timer.CONTACT, member) not in node.timers:
                pause = node.settings.contact_interval_s * (0.5 + node.rng.random())
                node.timers.set((Timer.CONTACT, member), node.now + pause)

    def _pause_s(self, contact: Contact) -> float:
        """Until a contact that does not answer is tried again."""
        node = self._node
        if contact.silent_since is None:
            contact.silent_since = node.now
        silent_s = node.now - contact.silent_since
        pause = node.settings.contact_pause_s(silent_s, node.table.size)
        return pause * (0.75 + 0.5 * node.rng.random())

    def _unreachable(self, contact: Contact) -> None:
        contact.stage = Stage.UNREACHABLE
        if contact.silent_since is None:
            contact.silent_since = self._node.now
        self._alone()

    def _alone(self) -> None:
        if self._told and all(c.stage is Stage.UNREACHABLE for c in self._contacts.values()):
            count = len(self._contacts)
            self._finish(
                "no other member is known yet: waiting for others"
                if count == 0
                else f"none of {count} contacts answers: starting alone, trying on"
            )

    def _finish(self, message: str) -> None:
        if not self.joined:
            self.joined = True
            self._node.timers.cancel((Timer.COMPARE, 0))
            self._node.log("info", message)
