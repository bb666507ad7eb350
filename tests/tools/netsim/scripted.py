"""A machine that does what a test tells it, and notes what happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from netmesh.core.effects import Effect
from netmesh.core.events import Event, Received
from netmesh.core.messages import Message, Ping
from netmesh.core.records import Generation, MemberId, Record
from netsim.machine import Changed, Machine
from netsim.network import LinkQuality
from netsim.process import Process
from netsim.world import World

A, B, C = MemberId("10.0.0.1:1"), MemberId("10.0.0.1:2"), MemberId("10.0.0.2:1")
STEADY = LinkQuality(latency_s=0.001, jitter_s=0.0)


class Scripted:
    size = 1
    root = 0

    def __init__(self, me: Record, changed: Changed) -> None:
        self.me = me
        self.changed = changed
        self.id = me.id
        self.seen: list[tuple[float, Event]] = []
        self.effects: list[Effect] = []
        self.answer: list[Effect] | None = None
        """Effects returned for a received message."""
        self.due = float("inf")

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.seen.append((now, event))
        if now >= self.due:
            self.due = float("inf")
        if isinstance(event, Received) and self.answer is not None:
            return self.answer
        effects, self.effects = self.effects, []
        return effects

    def deadline(self) -> float:
        return self.due

    def record(self, member: MemberId) -> Record | None:
        return self.me if member == self.id else None

    def check(self) -> None:
        pass

    @property
    def events(self) -> list[Event]:
        return [event for _, event in self.seen]


class ScriptedSpecies:
    name = "scripted"
    messages_first = True
    timers_run_while_blocked = False

    def make(self, me: Record, rng: Random, changed: Changed) -> Machine:
        return Scripted(me, changed)

    def acquaint(self, machines: Sequence[Machine], records: Sequence[Record], now: float) -> None:
        pass

    def reliable(self, message: Message) -> bool:
        return False


def world_of(*ids: MemberId) -> tuple[World, list[Process]]:
    world = World(ScriptedSpecies(), 1, link=STEADY, checked=True)
    return world, [world.start(member, None, {}) for member in ids]


def script(process: Process) -> Scripted:
    assert isinstance(process.machine, Scripted)
    return process.machine


def ping(sender: MemberId, sequence: int = 1) -> Ping:
    return Ping(sender, Generation(1), sequence, 0, 1)
