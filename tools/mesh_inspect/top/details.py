"""What there is to say of one member, and of two. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mesh_inspect.output.documents import ascii_json
from mesh_inspect.output.table import NOTHING, STYLES
from mesh_inspect.output.text import escape
from mesh_inspect.output.transfers import left, rate
from mesh_inspect.top.lists import bytes_of
from mesh_inspect.top.picture import Picture
from mesh_inspect.view.pairs import Fitness, fitness
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.transfers import Edge, Load
from mesh_inspect.view.words import human_age, human_bytes, short_layout
from netloader.discovery.advert import release_of
from netmesh import Member, MeshSettings

_NAME: Final = 12
"""Characters of a name before its value."""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text, whose characters a terminal can be given."""

    text: str = ""
    style: str = ""
    """As rich calls it."""


def of_member(member: str, picture: Picture) -> list[TextLine]:
    """Everything that a member publishes, and what others do with it."""
    rows = picture.by_id.get(member, ())
    if not rows:
        return [TextLine(f"{escape(member)} is not in the mesh any more", "bold")]
    return list(_member(rows[0].member, rows, picture))


def _member(member: Member, rows: Sequence[HoldingRow], picture: Picture) -> Iterator[TextLine]:
    status = rows[0].status
    yield _named("member", member.id, "bold")
    yield _named("status", status, STYLES.get(status, ""))
    yield _named("age", human_age(member.age_s))
    yield _named("release", release_of(member.advert))
    yield _named("generation", str(member.generation))
    yield _named("told", f"incarnation {member.incarnation}, version {member.version}")
    for row in rows:
        if row.holding is not None:
            yield TextLine()
            yield from _holding(row, picture)
    served = [edge for edge in picture.transfers.edges if edge.id == member.id]
    if served:
        yield TextLine()
        yield TextLine("sends to", "bold")
        yield from (_edge(edge.replica, "", edge) for edge in served)
    yield TextLine()
    yield TextLine("published", "bold")
    yield from (TextLine(escape(line)) for line in ascii_json(member.advert).splitlines())


def _holding(row: HoldingRow, picture: Picture) -> Iterator[TextLine]:
    holding = row.holding
    assert holding is not None
    yield _named("model", row.model or "", "bold")
    yield _named("role", f"{holding.role}, {short_layout(row.place) or 'rank unknown'}")
    yield _named("state", row.condition, STYLES.get(row.condition, ""))
    if holding.reason:
        yield _named("reason", holding.reason)
    if row.accusers:
        yield _named("accused", f"{row.accusers} say that it sent them wrong bytes", "red")
    yield _named("bytes", bytes_of(row))
    yield _named("endpoint", holding.endpoint)
    yield _named("transports", ", ".join(holding.offered))
    yield _named("fabric", holding.fabric)
    yield _named("content", row.content_id or "")
    yield _named("identity", holding.identity)
    load = next((one for one in picture.transfers.loads if one.row is row), None)
    if load is not None:
        yield from _load(load)


def _load(load: Load) -> Iterator[TextLine]:
    yield _named("loads", load.state, STYLES.get(load.state, ""))
    yield _named("rate", rate(load.rate))
    yield _named("time left", left(load))
    if load.awaits:
        yield _named("waits for", ", ".join(load.awaits))
    for edge in load.edges:
        yield _edge(edge.name, f" ({edge.condition})", edge)


def _edge(name: str, more: str, edge: Edge) -> TextLine:
    fast = rate(edge.rate) or NOTHING
    return TextLine(f"  {escape(name)}{more}  {human_bytes(edge.nbytes)}  {fast}")


def _named(name: str, value: str, style: str = "") -> TextLine:
    return TextLine(f"{name:<{_NAME}}{escape(value) or NOTHING}", style)


def of_pair(one: str, other: str, picture: Picture, settings: MeshSettings) -> list[TextLine]:
    """Whether each of two members could feed the other, and why not."""
    lines = []
    for replica, source in ((one, other), (other, one)):
        lines += [TextLine(f"what {escape(replica)} needs, from {escape(source)}", "bold")]
        mine, theirs = picture.by_id.get(replica), picture.by_id.get(source)
        if not mine or not theirs:
            gone = source if mine else replica
            lines += [TextLine(f"  {escape(gone)} is not in the mesh any more")]
        else:
            found = fitness(mine[0].member, theirs[0].member, settings)
            lines += [line for each in found for line in _fitness(each, theirs)]
            lines += [TextLine("  it publishes no model")] * (not found)
        lines.append(TextLine())
    return lines[:-1]


def _fitness(one: Fitness, theirs: Sequence[HoldingRow]) -> Iterator[TextLine]:
    place = short_layout(one.place)
    title = f"{one.model or 'a model'} ({one.role}{', ' + place if place else ''})"
    if one.fits:
        accusers = max(row.accusers for row in theirs)
        doubt = "; accused of wrong bytes, so it is asked last" if accusers else ""
        yield TextLine(f"  {escape(title)}: fits{doubt}", "green")
    for reason in one.reasons:
        yield TextLine(f"  {escape(title)}: {escape(reason)}", "yellow")


HELP: Final = (
    TextLine("1 2 3 4, Tab  members, transfers, models, events"),
    TextLine("up down j k   move; PgUp PgDn Home End as well"),
    TextLine("Enter         everything the member publishes; of a model: its members"),
    TextLine("Space         mark a member; with two marked, m says whether they match"),
    TextLine("/             filter: rows with all words you type; Enter keeps it"),
    TextLine("Esc           no filter; then no marks; leaves a page"),
    TextLine("< >           sort by another column; r: the other way round"),
    TextLine("p             hold the picture, and let it go on"),
    TextLine("?             this page"),
    TextLine("q, Ctrl-C     leave"),
    TextLine(),
    TextLine("The mesh is asked once a second. A member's figures are what it said last."),
    TextLine("`mesh-inspect list -w` and `transfers -w` print the same as lines."),
)
