"""Which of a deployment's worker processes this one is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rank:
    """A process in torch's world."""

    rank: int
    on_host: int
    """Rank on its host, as its launcher counts."""


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """One of the data-parallel engines of a deployment."""

    index: int
    index_on_host: int
    workers: int
    """How many processes it has."""
    shares_world: bool
    """Whether torch's world has all engines in it, not only this one."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a process stands among the workers that one command has started."""

    rank: int = 0
    """Unique over all engines of a deployment, data-parallel ones included. Names its files, and is
    added to `LISTEN_PORT`."""
    part: int = 0
    """Its rank as torch counts. Data-parallel engines of a dense model count alike, because they
    hold equal weights."""
    on_host: int = 0
    """Unique among the workers on this host, from 0 on. Added to `MESH_PORT`."""

    @classmethod
    def of(cls, world: Rank, engine: EnginePlace) -> Position:
        """The position of a rank of torch's world in one of several data-parallel engines.

        Engines of a model with experts share a world. Those of a dense model know nothing of each
        other: in each the ranks begin at 0. Some workers count `on_host` within their engine, and
        some within their host.
        """
        before = 0 if engine.shares_world else engine.index * engine.workers
        return cls(
            rank=before + world.rank,
            part=world.rank,
            on_host=engine.index_on_host * engine.workers + world.on_host % engine.workers,
        )

    @classmethod
    def alone(cls, rank: int) -> Position:
        """The position in a deployment of one engine on one host."""
        return cls(rank, rank, rank)
