"""One member in full: everything that it publishes and what the mesh says of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from mesh_inspect.view.entries import Entry, entries_of
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.words import human_age, human_bytes, human_rate
from netmesh import MemberId

MOST_NAMED: Final = 5
"""Members that are named where several are meant."""


def found(wanted: Iterable[str], ids: Iterable[MemberId]) -> tuple[list[MemberId], list[str]]:
    """The members that are meant, each once, and what is wrong with the words that mean none."""
    known = dict.fromkeys(ids)
    chosen: dict[MemberId, None] = {}
    problems = []
    for word in wanted:
        meant = _meant(word, known)
        if len(meant) == 1:
            chosen[meant[0]] = None
        elif meant:
            named = ", ".join(meant[:MOST_NAMED])
            more = f" and {len(meant) - MOST_NAMED} more" if len(meant) > MOST_NAMED else ""
            problems.append(f"{word!r} could be {named}{more}")
        else:
            problems.append(f"there is no member {word!r}")
    return list(chosen), problems


def _meant(word: str, ids: Iterable[MemberId]) -> list[MemberId]:
    """The member of this address; else those of this host; else those that begin like this."""
    ids = sorted(ids)
    if word in ids:
        return [MemberId(word)]
    host = word.strip("[]")
    there = [id for id in ids if id.rpartition(":")[0].strip("[]") == host]
    return there or [id for id in ids if word and id.startswith(word)]


def details(id: MemberId, rows: Sequence[HoldingRow]) -> Entry:
    """The document of one member. `rows`: of everybody."""
    mine = [row for row in rows if row.member.id == id]
    member = mine[0].member
    return {
        "id": id,
        "generation": member.generation,
        "incarnation": member.incarnation,
        "status": mine[0].status,
        "version": member.version,
        "age_s": round(member.age_s, 3),
        "entries": entries_of(mine, rows),
        "advert": member.advert,
    }


def lines(document: Mapping[str, object]) -> Iterator[str]:
    """A member's document for people. The lines may hold text of others, not escaped."""
    yield f"{document['id']}"
    for key in ("status", "generation", "incarnation", "version"):
        yield f"  {key}: {_plain(key, document[key])}"
    age_s = document["age_s"]
    assert isinstance(age_s, float)
    yield f"  age: {human_age(age_s)}"
    entries = document["entries"]
    assert isinstance(entries, list)
    for entry in entries:
        if entry["role"] is not None:
            yield ""
            yield f"  {entry['model'] or 'a model'} ({entry['role']})"
            yield from _entry(entry)
    yield ""
    yield "  advert"
    yield from _nested(document["advert"], "    ")


_OF_MEMBER: Final = {"id", "generation", "status", "age_s", "model", "role"}
"""What the head of a member or of a holding says."""


def _entry(entry: Mapping[str, object]) -> Iterator[str]:
    for key, value in entry.items():
        if key in _OF_MEMBER or value in (None, [], {}):
            continue
        if isinstance(value, Mapping | list):
            yield f"    {key}:"
            yield from _nested(value, "      ")
        else:
            yield f"    {key}: {_plain(key, value)}"


def _nested(value: object, indent: str) -> Iterator[str]:
    """What an object or a list holds, one text or number a line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list) and item:
                yield f"{indent}{key}:"
                yield from _nested(item, indent + "  ")
            else:
                yield f"{indent}{key}: {_plain(str(key), item)}"
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping | list) and item:
                first, *rest = _nested(item, indent + "  ")
                yield f"{indent}- {first[len(indent) + 2 :]}"
                yield from rest
            else:
                yield f"{indent}- {_plain('', item)}"


def _plain(key: str, value: object) -> str:
    """A text or a number, with its meaning for people where there is one."""
    if value in (None, "", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and key in ("bytes", "held_bytes", "total_bytes"):
        return f"{value} ({human_bytes(value)})"
    if isinstance(value, int) and key == "rate":
        return f"{value} ({human_rate(value)})"
    return str(value)
