"""Who loads what, how fast, and from whom, as the adverts of one look tell it. Pure.

A worker that loads says how much of its weights it has, how fast they come, which sources it pulls
from, and whose reading of storage it waits for. What cannot be true is not shown: it is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain
from typing import Final

from mesh_inspect.view.entries import API_VERSION, Entry
from mesh_inspect.view.rows import MAX_COUNT, HoldingRow, processes
from netloader.discovery.advert import Feed, Holding
from netloader.discovery.candidate import Process
from netmesh import MemberId, Status

MAX_RATE: Final = 1 << 44
"""Bytes/s: twice what the memory of a device takes in (8 TB/s on a B200). More is not believed."""

MAX_LEFT_S: Final = 10 * 86400.0
"""Nobody waits longer for weights. A time left beyond it says only that the figures are odd."""


class LoadState(StrEnum):
    """What a worker that loads is doing. For one that is not alive: what the mesh says of it."""

    STARTING = "starting"
    """Builds its model, or looks for sources."""
    WAITING = "waiting"
    """For members that read storage, to pull from them."""
    PULLING = "pulling"
    IDLE = "idle"
    """Has sources, of which none brought a byte lately."""
    READING = "reading"
    """Reads storage."""
    FINISHING = "finishing"
    """Has every byte; vLLM post-processes them."""
    STALLED = "stalled"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Edge:
    """Bytes that go from a source to a replica."""

    replica: MemberId
    source: HoldingRow | None
    """None: no member that was seen is this process. It may stand in a `SOURCE` list, or be dead
    and forgotten."""
    endpoint: str
    generation: int
    nbytes: int
    """Bytes that came so far."""
    rate: int | None
    """Bytes/s lately; None where the replica's word is old, or cannot be true."""

    @property
    def id(self) -> MemberId | None:
        """The source as a member; None where it is none that was seen."""
        return None if self.source is None else self.source.member.id

    @property
    def name(self) -> str:
        """The source by its id, else by its endpoint."""
        return self.id or self.endpoint

    @property
    def condition(self) -> str:
        """The source in one word, as a list of members says it."""
        return "unknown" if self.source is None else self.source.condition

    def document(self) -> Entry:
        """As programs read it. No key is ever missing."""
        return {
            "id": self.id,
            "endpoint": self.endpoint,
            "generation": min(self.generation, MAX_COUNT),
            "condition": self.condition,
            "bytes": self.nbytes,
            "rate": self.rate,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """One model that a worker loads."""

    row: HoldingRow
    state: LoadState
    rate: int | None
    """Bytes/s that came lately, from all sources or from storage; None where unknown."""
    edges: tuple[Edge, ...]
    """From the sources that it pulls from, the fastest first."""
    awaits: tuple[MemberId, ...]
    """Members whose reading of storage it waits for."""

    @property
    def key(self) -> Hashable:
        """The same for the same load in each look."""
        return (self.row.member.id, self.row.member.generation, self.row.role, self.row.model)

    @property
    def news(self) -> Hashable:
        """What another look may show as another."""
        told = tuple((edge.name, edge.condition, edge.nbytes, edge.rate) for edge in self.edges)
        return (self.state, self.row.held, self.row.total, self.rate, self.awaits, told)

    @property
    def left_s(self) -> float | None:
        """Seconds until all bytes are there, at this rate; None where nothing tells."""
        missing = self.row.total - self.row.held
        if not self.row.total or self.rate is None or (missing and not self.rate):
            return None
        left_s = missing / self.rate if missing else 0.0
        return left_s if left_s < MAX_LEFT_S else None

    def document(self) -> Entry:
        """As programs read it. No key is ever missing."""
        row = self.row
        return {
            "id": row.member.id,
            "generation": row.member.generation,
            "status": row.status,
            "model": row.model,
            "role": row.role,
            "layout": asdict(row.place),
            "state": self.state.value,
            "held_bytes": row.held,
            "total_bytes": row.total,
            "rate": self.rate,
            "left_s": None if self.left_s is None else round(self.left_s, 3),
            "reads_storage": row.reads_storage,
            "sources": [edge.document() for edge in self.edges],
            "awaits": list(self.awaits),
        }


@dataclass(frozen=True, slots=True)
class Transfers:
    """What moves in a mesh."""

    loads: tuple[Load, ...]
    """In the order of the rows: those of members that are gone come last."""

    @property
    def edges(self) -> Iterator[Edge]:
        """From every source to every replica."""
        return chain.from_iterable(load.edges for load in self.loads)

    @property
    def rate(self) -> int:
        """Bytes/s of all loads together, as far as they are known."""
        return sum(load.rate or 0 for load in self.loads)

    def since(self, before: Transfers) -> Transfers:
        """Those of the loads of which something is another now."""
        known = before.news
        return Transfers(tuple(load for load in self.loads if known.get(load.key) != load.news))

    @property
    def news(self) -> Mapping[Hashable, Hashable]:
        """What another look may show as another. That members grow older is no news."""
        return {load.key: load.news for load in self.loads}

    def document(self, mesh: str) -> Entry:
        """As programs read it. No key is ever missing."""
        return {
            "apiVersion": API_VERSION,
            "mesh": mesh,
            "rate": self.rate,
            "transfers": [load.document() for load in self.loads],
        }


def transfers_of(
    rows: Sequence[HoldingRow], wanted: Callable[[HoldingRow], bool] = lambda row: True
) -> Transfers:
    """The loads among these rows, sources looked up among them. `wanted` picks loads; their sources
    may be others."""
    sources = _sources(rows)
    return Transfers(
        tuple(
            _load(row, row.holding, sources)
            for row in rows
            if row.holding is not None and row.holding.state == "loading" and wanted(row)
        )
    )


def _sources(rows: Sequence[HoldingRow]) -> dict[Process, HoldingRow]:
    """Rows by what a replica knows of its source."""
    members = processes(rows)
    found: dict[Process, HoldingRow] = {}
    for row in rows:
        process = (row.endpoint or "", int(row.member.generation))
        if members.get(process) == row.member.id:
            found.setdefault(process, row)
    return found


def _load(row: HoldingRow, holding: Holding, sources: Mapping[Process, HoldingRow]) -> Load:
    alive = row.member.status is Status.ALIVE
    edges = tuple(_edges(row, holding, sources, alive))
    # A release that says no rates has sessions and no feeds.
    told = bool(holding.rate or holding.feeds or not holding.pulling)
    rate = _credible(holding.rate) if alive and told else None
    awaits = dict.fromkeys(MemberId(one) for one in holding.awaits if one != row.member.id)
    return Load(row, _state(row, holding, edges, rate), rate, edges, tuple(awaits))


def _edges(
    row: HoldingRow, holding: Holding, sources: Mapping[Process, HoldingRow], alive: bool
) -> Iterator[Edge]:
    for process, feed in _once(holding.feeds).items():
        source = sources.get(process)
        # A worker never pulls from itself, whatever it says.
        if feed.endpoint == holding.endpoint or (source and source.member.id == row.member.id):
            continue
        yield Edge(
            row.member.id,
            source,
            feed.endpoint,
            feed.generation,
            min(feed.nbytes, row.total or MAX_COUNT),
            _credible(feed.rate) if alive else None,
        )


def _once(feeds: Iterable[Feed]) -> dict[Process, Feed]:
    """One feed of each process, the fastest first."""
    found: dict[Process, Feed] = {}
    for feed in sorted(feeds, key=lambda feed: -feed.rate):
        found.setdefault((feed.endpoint, feed.generation), feed)
    return found


def _state(row: HoldingRow, holding: Holding, edges: Sequence[Edge], rate: int | None) -> LoadState:
    if row.member.status is not Status.ALIVE:
        return LoadState(row.status)
    if row.total and row.held == row.total:
        return LoadState.FINISHING
    if holding.storage == "reading":
        return LoadState.READING
    if edges or holding.pulling:
        return LoadState.IDLE if rate == 0 else LoadState.PULLING
    return LoadState.WAITING if holding.awaits else LoadState.STARTING


def _credible(rate: int) -> int | None:
    return rate if rate <= MAX_RATE else None
