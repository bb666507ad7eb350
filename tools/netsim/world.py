"""The world: one heap of events in virtual time, and the processes that live and die in it."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from netmesh.core.effects import Departed, Dial, Displaced, Effect, Log, Reply, Send, Watch
from netmesh.core.events import (
    Connection,
    Contacts,
    Dialled,
    DialOutcome,
    Event,
    Leave,
    LinkLost,
    Publish,
    Received,
    Tick,
)
from netmesh.core.records import (
    JsonObject,
    MemberId,
    Record,
    host_of,
    new_generation,
    new_record,
)
from netmesh.core.wire import Codec
from netsim.links import WatchLinks
from netsim.machine import Species
from netsim.network import Block, LinkQuality, Network
from netsim.process import Fate, Process
from netsim.trace import Trace
from netsim.traffic import Meter
from netsim.witness import Witness

EPOCH_MS = 1_790_000_000_000
"""Wall clock at virtual time 0; generations come from it."""
START_S = 100.0
OWN_LINK = Connection(b"\x01")
"""Token of a connection that the receiver opened itself, which must not be replied to."""
TICK = Tick()


class World:
    """Owns time. All its randomness comes from one seed."""

    def __init__(
        self,
        species: Species,
        seed: int,
        *,
        link: LinkQuality | None = None,
        checked: bool = False,
        through_wire: bool = False,
        trace: Trace | None = None,
    ) -> None:
        """With `checked`, every machine checks itself after every event. With `through_wire`, every
        message is encoded and decoded on its way. Both cost time and find bugs."""
        self.species = species
        self.now = START_S
        self.rng = Random(seed)
        self.network = Network(Random(self.rng.getrandbits(64)), link or LinkQuality())
        self.codec = Codec("sim")
        self.meter = Meter(self.codec)
        self.trace = trace or Trace()
        self.witness = Witness(self)
        self.links = WatchLinks(self)
        self.processes: dict[MemberId, Process] = {}
        """The process that holds each address now, or held it last."""
        self.all: list[Process] = []
        self.faults: Counter[str] = Counter()
        """Faults by kind, counted when they take effect."""
        self.dark: set[str] = set()
        self.redirected: dict[tuple[MemberId, MemberId], Process] = {}
        """Addresses that lead to another process, by (sender, address), as behind a NAT."""
        self.handled = 0
        self.connects = 0
        """Connects in the window in which traffic counts, as far as they are not links between the
        living: dials, and messages to addresses where nobody is."""
        self.on_displaced: Callable[[Process], object] = lambda _: None
        """Called with a process whose address is another's. This may end it."""
        self.deadlines_run_while_blocked = species.timers_run_while_blocked
        self._checked = checked
        self._through_wire = through_wire
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._metering = False

    # Population

    def start(
        self,
        member: MemberId,
        contacts: Sequence[MemberId] | None,
        advert: JsonObject,
        *,
        twin: bool = False,
    ) -> Process:
        """Start a new process there. Without contacts it knows nobody (see `acquaint`).

        A twin only says that it is there: the address still leads to the process before it.
        """
        wall_ms = EPOCH_MS + int(self.now * 1000)
        generation = new_generation(wall_ms, self.rng.getrandbits(22))
        record = new_record(member, generation, advert)
        index = len(self.all)
        holder: list[Process] = []
        witness = self.witness

        def changed(old: Record | None, new: Record) -> None:
            witness.changed(holder[0], old, new)

        machine = self.species.make(record, Random(self.rng.getrandbits(64)), changed)
        connection = Connection(b"%d" % index)
        process = Process(member, generation, index, machine, connection, self.now)
        holder.append(process)
        if not twin:
            before = self.processes.get(member)
            assert before is None or before.fate.ended, f"{member} is still in use"
            self.processes[member] = process
        self.all.append(process)
        self.witness.born(process)
        self.dark.discard(host_of(member))
        if contacts is not None:
            self.give(process, Contacts(tuple(contacts)))
        return process

    def acquaint(self) -> None:
        """Let all running members know each other, as if the join were long over."""
        running = self.running()
        records = [p.machine.record(p.id) for p in running]
        self.species.acquaint(
            [p.machine for p in running],
            [record for record in records if record is not None],
            self.now,
        )
        for process in running:
            self.give(process, TICK)

    def running(self) -> list[Process]:
        """Processes that exist and have not said goodbye, in the order of their start."""
        return [p for p in self.processes.values() if p.alive]

    def converged(self) -> bool:
        """True when all running members have the same view, and that view is right."""
        running = self.running()
        root = running[0].machine.root
        count = len(running)
        return all(p.machine.root == root and p.machine.size == count for p in running)

    # Faults. Each is counted where it takes effect.

    def crash(self, process: Process) -> None:
        """The process ends without a goodbye (SIGKILL)."""
        self._end(process, Fate.CRASHED)
        self.faults["crash"] += 1
        self.links.ended(process.id)

    def crash_twin(self, process: Process) -> None:
        """A twin ends without a goodbye; its address still leads to the other."""
        self._end(process, Fate.CRASHED)

    def crash_host(self, host: str) -> list[Process]:
        """A host loses power; returns the processes that went with it."""
        gone = [p for p in self.running() if host_of(p.id) == host]
        self.dark.add(host)
        for process in gone:
            self._end(process, Fate.VANISHED)
        self.faults["host-crash"] += len(gone)
        self.links.cut()
        return gone

    def stall(self, process: Process, seconds: float, fate: Fate = Fate.STALLED) -> None:
        """The process does nothing for that long, or (BLOCKED) neither sends nor receives."""
        if process.fate is Fate.RUNNING:
            process.fate = fate
            self.faults["stall"] += 1
            self.after(seconds, self._wake, process)

    def slow(self, process: Process, pace_s: float) -> None:
        """From now on, every event takes the process that much time."""
        process.pace_s = pace_s
        self.faults["slow"] += 1

    def block(self, block: Block) -> None:
        """Put a block in place."""
        self.network.blocks.append(block)
        self.faults["block"] += 1
        self.links.cut()

    def unblock(self, block: Block) -> None:
        """Remove a block."""
        self.network.blocks.remove(block)

    def leave(self, process: Process) -> None:
        """The process says goodbye and ends."""
        process.ended = self.now
        self.faults["leave"] += 1
        self.give(process, Leave())

    def _end(self, process: Process, fate: Fate) -> None:
        process.fate = fate
        process.ended = min(process.ended, self.now)
        process.inbox.clear()
        process.outbox.clear()

    def _wake(self, process: Process) -> None:
        if process.fate not in (Fate.STALLED, Fate.BLOCKED):
            return
        process.fate = Fate.RUNNING
        inbox, process.inbox = process.inbox, []
        outbox, process.outbox = process.outbox, []
        for effect in outbox:
            self._carry_out(process, effect)
        if not self.species.messages_first:
            self.give(process, TICK)
        for event in inbox:
            self.give(process, event)
        self.give(process, TICK)

    # Time

    def after(self, delay: float, action: Callable[..., None], *args: object) -> None:
        """Call `action` after that many seconds."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, action, args))

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        end = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, action, args = pop(heap)
            action(*args)
        self.now = end

    def until(self, condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
        """Run until the condition holds, but at most that long; False if it never did."""
        end = self.now + seconds
        while not condition():
            if self.now >= end:
                return False
            self.run(min(every, end - self.now))
        return True

    def measure(self, *, on: bool) -> None:
        """Begin or end the window in which traffic counts."""
        if on:
            self.connects = 0
            self.meter.reset()
            self.after(1.0, self._second)
        self._metering = on

    def _second(self) -> None:
        if self._metering:
            self.meter.second(len(self.running()))
            self.after(1.0, self._second)

    # Plumbing

    def give(self, process: Process, event: Event) -> None:
        """Hand an event to a process, if it can take one."""
        fate = process.fate
        if fate is not Fate.RUNNING:
            if fate is Fate.STALLED or (fate is Fate.BLOCKED and event is not TICK):
                if event is not TICK:
                    process.inbox.append(event)
                return
            if fate.ended or not self.deadlines_run_while_blocked:
                return
        if process.pace_s:
            process.busy_until = max(process.busy_until, self.now) + process.pace_s
            self.after(process.busy_until - self.now, self._step, process, event)
            return
        self._step(process, event)

    def contact(self, process: Process, contacts: Sequence[MemberId]) -> None:
        """Bootstrap found these addresses."""
        self.give(process, Contacts(tuple(contacts)))

    def publish(self, process: Process, advert: JsonObject) -> None:
        """The process publishes a new advert."""
        self.give(process, Publish(advert))

    def _step(self, process: Process, event: Event) -> None:
        if process.fate.ended or process.fate is Fate.STALLED:
            return
        machine = process.machine
        effects = machine.handle(event, self.now)
        self.handled += 1
        self.trace.add(
            f"{self.now:.9f} {process.index} {_name(event)} {len(effects)} {machine.root:x}"
        )
        if self._checked:
            machine.check()
        if effects:
            if process.fate is Fate.BLOCKED:
                process.outbox += effects
            else:
                for effect in effects:
                    self._carry_out(process, effect)
        due = machine.deadline()
        if due < process.wake_at or process.wake_at <= self.now:
            process.wake_at = due = max(due, self.now)
            if due < float("inf"):
                self.after(due - self.now, self._tick, process, due)

    def _tick(self, process: Process, due: float) -> None:
        if process.wake_at == due:
            process.wake_at = float("inf")
            self.give(process, TICK)

    def _carry_out(self, process: Process, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                if self._metering:
                    self.meter.sent(process.id, message)
                    self.connects += not self._anybody_at(to)
                reliable = self.species.reliable(message)
                if self._through_wire:
                    decoded = self.codec.decode(self.codec.encode(message))
                    assert decoded == message, f"{message} came out as {decoded}"
                event = Received(process.connection, message)
                there = self.redirected.get((process.id, to)) if self.redirected else None
                reached = to if there is None else there.id
                for delay in self.network.delays(process.id, reached, reliable=reliable):
                    self.after(delay, self._arrive, reached, event)
            case Reply(to, message):
                if self._metering:
                    self.meter.sent(process.id, message)
                assert to != OWN_LINK, f"{process.id} replies over a connection of its own"
                asker = self.all[int(to)]
                event = Received(OWN_LINK, message)
                reliable = self.species.reliable(message)
                for delay in self.network.delays(process.id, asker.id, reliable=reliable):
                    self.after(delay, self._answered, asker, event)
            case Dial(target, timeout_s):
                self.connects += self._metering
                self._dial(process, target, timeout_s)
            case Watch(ids):
                self.links.watch(process, ids)
            case Departed():
                self._end(process, Fate.DEPARTED)
                self.links.ended(process.id)
            case Displaced():
                self.on_displaced(process)
            case Log(level, message):
                if level != "debug":
                    process.logs.append(f"{self.now - START_S:.3f} {message}")

    def _anybody_at(self, address: MemberId) -> bool:
        there = self.processes.get(address)
        return there is not None and not there.fate.ended

    def _arrive(self, to: MemberId, event: Event) -> None:
        process = self.processes.get(to)
        if process is not None:
            self.give(process, event)

    def _answered(self, process: Process, event: Event) -> None:
        # The connection belonged to that process; its successor never sees the answer.
        self.give(process, event)

    def _dial(self, process: Process, target: MemberId, timeout_s: float) -> None:
        took = self.network.connects(process.id, target)
        outcome = DialOutcome.CONNECTED
        if took is None or host_of(target) in self.dark:
            outcome, took = DialOutcome.SILENT, timeout_s
        elif not self._anybody_at(target):
            outcome = DialOutcome.REFUSED
        self.after(took, self.give, process, Dialled(target, outcome))


def _name(event: Event) -> str:
    match event:
        case Received(_, message):
            return f"{type(message).__name__}<{message.sender}"
        case Dialled(member, outcome):
            return f"{outcome.value}:{member}"
        case LinkLost(member):
            return f"LinkLost:{member}"
        case _:
            return type(event).__name__
