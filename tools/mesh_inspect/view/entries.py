"""The entry of a holding in the documents: what programs read. Pure.

No key is ever missing; what is unknown is None. `schema/mesh-v1.json` describes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Final

from mesh_inspect.view.rows import MAX_COUNT, HoldingRow, RankPlace, processes
from netloader.discovery.advert import release_of
from netloader.discovery.candidate import Process
from netmesh import MemberId

API_VERSION: Final = "mesh-inspect/v1"
"""Keys may be added under it. None is ever removed, or means something else."""

Entry = dict[str, object]

_PLACE: Final = tuple(one.name for one in fields(RankPlace))


def entries_of(
    rows: Iterable[HoldingRow], everybody: Iterable[HoldingRow] | None = None
) -> list[Entry]:
    """The entries of these rows. `everybody`: all rows of the look, in which sources are looked
    up by what their replicas say of them; None: there are no others."""
    rows = list(rows)
    sources = processes(rows if everybody is None else everybody)
    return [entry_of(row, sources) for row in rows]


def entry_of(row: HoldingRow, sources: Mapping[Process, MemberId]) -> Entry:
    """The entry of one row."""
    member, holding, place = row.member, row.holding, row.place
    return {
        "id": member.id,
        "generation": member.generation,
        "status": row.status,
        "ready": row.ready,
        "model": row.model,
        "given": row.given,
        "content": row.content_id,
        "identity": None if holding is None else holding.identity,
        "role": row.role,
        "layout": {name: getattr(place, name) for name in _PLACE},
        "backend": None if holding is None else holding.backend or None,
        "transports": None if holding is None else list(holding.offered),
        "host": member.host,
        "endpoint": row.endpoint,
        "bytes": row.nbytes,
        "held_bytes": row.held,
        "total_bytes": row.total,
        "reads_storage": row.reads_storage,
        "sessions": {"serving": row.serving, "pulling": row.pulling},
        "age_s": round(member.age_s, 3),
        "state": None if holding is None else holding.state,
        "reason": row.reason or None,
        "accused_by": row.accusers,
        "origin": None if holding is None else holding.origin or None,
        "carried_by": None if holding is None else list(holding.carried),
        "weights_layout": row.weights_layout,
        "rate": row.rate,
        "feeds": _feeds(row, sources),
        "awaits": [] if holding is None else list(holding.awaits),
        "fabric": row.fabric,
        "release": release_of(member.advert) or None,
        "started": member.started_s,
    }


def listed(entries: Iterable[Entry], mesh: str) -> dict[str, object]:
    """The document of `list`."""
    return {"apiVersion": API_VERSION, "mesh": mesh, "members": list(entries)}


def _feeds(row: HoldingRow, sources: Mapping[Process, MemberId]) -> list[Entry]:
    """The sources that it pulls from, fastest first."""
    return [
        {
            "id": sources.get((feed.endpoint, feed.generation)),
            "endpoint": feed.endpoint,
            # No process has a larger one.
            "generation": min(feed.generation, MAX_COUNT),
            "bytes": min(feed.nbytes, MAX_COUNT),
            "rate": min(feed.rate, MAX_COUNT),
        }
        for feed in (() if row.holding is None else row.holding.feeds)
    ]
