"""A small virtual-time world for tests of the engine: exact, seeded, without sockets.

It knows processes that run, crash, stall, or lose their host, and links that lose messages. The
full simulator lives in `netsim`; this one only has what the unit tests of the core need.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from netmesh.core.effects import Departed, Dial, Effect, Log, Reply, Send, Watch
from netmesh.core.engine import Engine
from netmesh.core.events import (
    Connection,
    Contacts,
    Dialled,
    DialOutcome,
    Event,
    LinkLost,
    Received,
    Tick,
)
from netmesh.core.records import (
    Generation,
    JsonObject,
    MemberId,
    Record,
    Status,
    new_generation,
    new_record,
)
from netmesh.core.settings import ProtocolSettings
from netmesh.core.wire import Codec

EPOCH_MS = 1_790_000_000_000


class Fate(Enum):
    RUNNING = 0
    STALLED = 1
    CRASHED = 2
    HOST_DOWN = 3


@dataclass
class Process:
    engine: Engine
    fate: Fate = Fate.RUNNING
    inbox: list[Event] = field(default_factory=list)
    watching: frozenset[MemberId] = frozenset()
    departed: bool = False
    logs: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    sent: int = 0
    wake_at: float = -1.0


class World:
    def __init__(
        self,
        seed: int = 1,
        *,
        settings: ProtocolSettings | None = None,
        loss: float = 0.0,
        checked: bool = True,
        sized: bool = False,
        advert: JsonObject | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.settings = settings or ProtocolSettings()
        self.loss = loss
        self.checked = checked
        self.now = 100.0
        self.processes: dict[MemberId, Process] = {}
        self.blocked: Callable[[MemberId, MemberId], bool] = lambda a, b: False
        self.codec = Codec("test") if sized else None
        self.dials_answered = True
        self.advert: JsonObject = advert if advert is not None else {"model": "m"}
        self.on_handled: Callable[[MemberId, Process], None] | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # Population

    def start(
        self, name: str, contacts: tuple[str, ...] = (), *, generation: Generation | None = None
    ) -> MemberId:
        member = MemberId(name)
        if generation is None:
            at = EPOCH_MS + int(self.now * 1000)
            generation = new_generation(at, self.rng.getrandbits(22))
        record: Record = new_record(member, generation, self.advert)
        engine = Engine(self.settings, record, random.Random(self.rng.getrandbits(64)))
        self.processes[member] = Process(engine)
        self.give(member, Contacts(tuple(MemberId(c) for c in contacts)))
        return member

    def grow(self, count: int, seconds: float = 15.0, per_host: int = 1) -> list[MemberId]:
        """`count` members that all know the first, run until they know each other."""
        first = self.start(self.name(0, per_host))
        ids = [first]
        ids += [self.start(self.name(i, per_host), (first,)) for i in range(1, count)]
        assert self.until(self.converged, seconds), self.sizes()
        self.run(1.0)
        return ids

    @staticmethod
    def name(index: int, per_host: int = 1) -> str:
        host = index // per_host
        return f"10.{host // 65536}.{host // 256 % 256}.{host % 256}:{17946 + index % per_host}"

    def engine(self, member: str) -> Engine:
        return self.processes[MemberId(member)].engine

    def running(self) -> list[MemberId]:
        return [m for m, p in self.processes.items() if p.fate is Fate.RUNNING and not p.departed]

    def status(self, viewer: str, member: str) -> Status | None:
        record = self.engine(viewer).record(MemberId(member))
        return None if record is None else record.status

    def statuses(self, member: str) -> set[Status | None]:
        """What the others that run think of that member."""
        return {self.status(v, member) for v in self.running() if v != member}

    def converged(self) -> bool:
        engines = [self.engine(m) for m in self.running()]
        return len({e.root for e in engines}) == 1 and engines[0].size == len(engines)

    def sizes(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for member in self.running():
            size = self.engine(member).size
            counts[size] = counts.get(size, 0) + 1
        return counts

    # Faults

    def crash(self, member: MemberId) -> None:
        self.processes[member].fate = Fate.CRASHED
        for other, process in self.processes.items():
            if member in process.watching and process.fate is Fate.RUNNING:
                self.after(0.001, lambda o=other: self.give(o, LinkLost(member)))

    def host_down(self, member: MemberId) -> None:
        self.processes[member].fate = Fate.HOST_DOWN
        for other, process in self.processes.items():
            if member in process.watching:
                self.after(6.0, lambda o=other: self.give(o, LinkLost(member)))

    def stall(self, member: MemberId, seconds: float) -> None:
        process = self.processes[member]
        process.fate = Fate.STALLED

        def wake() -> None:
            if process.fate is Fate.STALLED:
                process.fate = Fate.RUNNING
                inbox, process.inbox = process.inbox, []
                for event in inbox:
                    self.give(member, event)
                self.give(member, Tick())

        self.after(seconds, wake)

    # Time

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, action))

    def run(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
        end = self.now + seconds
        look = self.now
        while True:
            if self.now >= look:
                if condition():
                    return True
                look = self.now + every
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return condition()
            self.now, _, action = heapq.heappop(self._queue)
            action()

    # Plumbing

    def give(self, member: MemberId, event: Event) -> None:
        process = self.processes[member]
        if process.departed or process.fate in (Fate.CRASHED, Fate.HOST_DOWN):
            return
        if process.fate is Fate.STALLED:
            process.inbox.append(event)
            return
        effects = process.engine.handle(event, self.now)
        if self.checked:
            process.engine.check()
        if self.on_handled is not None:
            self.on_handled(member, process)
        for effect in effects:
            self._carry_out(member, process, effect)
        self._arm(member, process)

    def _arm(self, member: MemberId, process: Process) -> None:
        due = process.engine.deadline()
        if due == float("inf") or (0 <= process.wake_at <= due and process.wake_at > self.now):
            return
        process.wake_at = max(due, self.now)

        def tick(at: float = process.wake_at) -> None:
            if process.wake_at == at:
                process.wake_at = -1.0
                self.give(member, Tick())

        self.after(process.wake_at - self.now, tick)

    def _carry_out(self, member: MemberId, process: Process, effect: Effect) -> None:
        match effect:
            case Send(to, message):
                self._count_bytes(process, effect)
                connection = Connection(f"{member}>{to}".encode())
                self._deliver(member, to, Received(connection, message))
            case Reply(to, message):
                self._count_bytes(process, effect)
                asker, _, answerer = bytes(to).decode().partition(">")
                assert answerer == member, "Reply to a connection that we opened ourselves"
                back = Connection(f"dealer:{member}".encode())
                self._deliver(member, MemberId(asker), Received(back, message))
            case Dial(target, timeout_s):
                self._dial(member, target, timeout_s)
            case Watch(ids):
                process.watching = ids
            case Departed():
                process.departed = True
            case Log(_, message):
                process.logs.append(message)

    def _count_bytes(self, process: Process, effect: Send | Reply) -> None:
        process.sent += 1
        if self.codec is not None:
            process.sent_bytes += self.codec.size(effect.message)

    def _deliver(self, source: MemberId, to: MemberId, event: Event) -> None:
        if to not in self.processes or self.blocked(source, to):
            return
        if self.loss and self.rng.random() < self.loss:
            return
        self.after(0.0003 + 0.001 * self.rng.random(), lambda: self.give(to, event))

    def _dial(self, source: MemberId, to: MemberId, timeout_s: float) -> None:
        if not self.dials_answered:
            return
        target = self.processes.get(to)
        lost = self.loss and self.rng.random() < 1 - (1 - self.loss) ** 2
        cut = self.blocked(source, to) or self.blocked(to, source)
        if (target is not None and target.fate is Fate.HOST_DOWN) or lost or cut:
            outcome, delay = DialOutcome.SILENT, timeout_s
        elif target is None or target.fate is Fate.CRASHED or target.departed:
            outcome, delay = DialOutcome.REFUSED, 0.001
        else:
            outcome, delay = DialOutcome.CONNECTED, 0.001
        self.after(delay, lambda: self.give(source, Dialled(to, outcome)))
