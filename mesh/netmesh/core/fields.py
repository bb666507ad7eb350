"""Checks on every field of a received body, and the encoded form of claims and digest entries.

Any fault raises `RemoteProtocolError`, which names the field. Claims and entries are JSON arrays,
not objects: a table of 2,000 members is sent as thousands of them. Elements after the known ones
are ignored, so that a later version may append.
"""

from __future__ import annotations

import re
from functools import lru_cache

import orjson

from netmesh.core.claims import MAX_WITNESSES, Claim
from netmesh.core.messages import Entry
from netmesh.core.records import (
    MAX_ADVERT_BYTES,
    MAX_COUNTER,
    MAX_GENERATION,
    MAX_ID_BYTES,
    Advert,
    Generation,
    Json,
    JsonObject,
    MemberId,
    Status,
)
from netmesh.errors import RemoteProtocolError

_LAST_STATUS = max(Status)
_ID = re.compile(r"(?:\[[0-9A-Fa-f:.%]{2,64}\]|[0-9A-Za-z._-]{1,253}):([0-9]{1,5})")

CLAIM_OVERHEAD = 64
"""Brackets, commas, quotes and five numbers of at most 19 digits, less the id and the advert."""


@lru_cache(maxsize=65536)
def _valid_id(text: str) -> bool:
    match = _ID.fullmatch(text)
    return match is not None and len(text) <= MAX_ID_BYTES and 0 < int(match[1]) < 65536


def member_id(value: Json, name: str) -> MemberId:
    """`host:port` with a port of 1..65535."""
    if not isinstance(value, str) or len(value) > MAX_ID_BYTES or not _valid_id(value):
        raise RemoteProtocolError(f"{name} is not host:port")
    return MemberId(value)


def integer(value: Json, name: str, top: int) -> int:
    """An integer in 0..top; true and false are not integers."""
    if type(value) is not int or not 0 <= value <= top:
        raise RemoteProtocolError(f"{name} is not an integer of 0..{top}")
    return value


def boolean(value: Json, name: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise RemoteProtocolError(f"{name} is neither true nor false")
    return value


def array(value: Json, name: str, most: int) -> list[Json]:
    """A JSON array of at most `most` elements."""
    if not isinstance(value, list) or len(value) > most:
        raise RemoteProtocolError(f"{name} is not an array of at most {most} elements")
    return value


def advert(value: Json, name: str) -> Advert:
    """A JSON object of bounded size, as its canonical bytes."""
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{name} is not an object")
    try:
        packed = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise RemoteProtocolError(f"{name} is nested too deeply") from error
    if len(packed) > MAX_ADVERT_BYTES:
        raise RemoteProtocolError(f"{name} has {len(packed)} bytes, at most {MAX_ADVERT_BYTES}")
    return Advert(packed)


def claim(value: Json, name: str) -> Claim:
    """[id, generation, incarnation, status, version, advert?, accusers?, crash?, held?]."""
    items = array(value, name, 32)
    if len(items) < 5:
        raise RemoteProtocolError(f"{name} has {len(items)} elements, at least 5 are needed")
    size = len(items)
    witnesses = (
        tuple(member_id(i, name) for i in array(items[6], name, MAX_WITNESSES)) if size > 6 else ()
    )
    crash = (
        tuple(member_id(i, name) for i in array(items[7], name, MAX_WITNESSES)) if size > 7 else ()
    )
    return Claim(
        member_id(items[0], name),
        Generation(integer(items[1], name, MAX_GENERATION)),
        integer(items[2], name, MAX_COUNTER),
        Status(integer(items[3], name, _LAST_STATUS)),
        integer(items[4], name, MAX_COUNTER),
        advert(items[5], name) if size > 5 and items[5] is not None else None,
        witnesses,
        crash,
        boolean(items[8], name) if size > 8 else False,
    )


def claims(value: Json, name: str, most: int) -> tuple[Claim, ...]:
    """An array of claims."""
    return tuple(claim(item, name) for item in array(value, name, most))


def entry(value: Json, name: str) -> Entry:
    """[id, generation, incarnation, status, version]."""
    items = array(value, name, 32)
    if len(items) < 5:
        raise RemoteProtocolError(f"{name} has {len(items)} elements, at least 5 are needed")
    return Entry(
        member_id(items[0], name),
        Generation(integer(items[1], name, MAX_GENERATION)),
        integer(items[2], name, MAX_COUNTER),
        integer(items[3], name, max(Status)),
        integer(items[4], name, MAX_COUNTER),
    )


def load(body: bytes) -> JsonObject:
    """The body as a JSON object."""
    try:
        value = orjson.loads(body)
    except ValueError as error:
        raise RemoteProtocolError(f"body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RemoteProtocolError("body is not a JSON object")
    return value


def claim_bytes(value: Claim) -> int:
    """Upper bound of a claim's encoded size, without encoding it."""
    size = CLAIM_OVERHEAD + 32 + len(value.id)
    if value.advert is not None:
        size += len(value.advert)
    for witness in value.accusers:
        size += len(witness) + 3
    for witness in value.crash:
        size += len(witness) + 3
    return size


def entry_bytes(member: MemberId) -> int:
    """Upper bound of an encoded digest entry."""
    return CLAIM_OVERHEAD + 16 + len(member)


def dump_claim(value: Claim) -> list[object]:
    """Encodable form of a claim; trailing empty parts are left out."""
    items: list[object] = [
        value.id,
        value.generation,
        value.incarnation,
        int(value.status),
        value.version,
    ]
    if value.advert is not None:
        items.append(orjson.Fragment(value.advert))
    elif value.accusers or value.crash or value.held:
        items.append(None)
    if value.accusers or value.crash or value.held:
        items.append(value.accusers)
    if value.crash or value.held:
        items.append(value.crash)
    if value.held:
        items.append(True)
    return items


def dump_entry(value: Entry) -> list[object]:
    """Encodable form of a digest entry."""
    return [value.id, value.generation, value.incarnation, value.status, value.version]
