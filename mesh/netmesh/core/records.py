"""What one member knows about another, and how two such pieces of knowledge become one.

A `Record` is a point in a join-semilattice, and `merge` is its join: commutative, associative and
idempotent. So records may arrive in any order, any number of times, over any path, and all members
still end with the same table. docs/adr/0001-membership-records.md gives the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NewType, TypeAlias

import orjson
import xxhash

from netmesh.errors import LocalProtocolError

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
JsonObject: TypeAlias = dict[str, Json]

MemberId = NewType("MemberId", str)
"""`host:port` (IPv6 in brackets): where others reach the member."""

Generation = NewType("Generation", int)
"""Milliseconds since the epoch << 22 | 22 random bits: unique per process start, and ordered."""

Advert = NewType("Advert", bytes)
"""What a member publishes, as canonical JSON (sorted keys). Opaque to the mesh."""

GENERATION_RANDOM_BITS = 22
MAX_GENERATION = 2**63 - 1
DAY_MS = 24 * 3600 * 1000
FIRST_MS = 1_735_689_600_000
"""2025-01-01, before this protocol was made: a clock that shows an earlier time is not set."""
MAX_COUNTER = 2**53 - 1
"""Incarnations and versions stay exact in every JSON implementation."""
MAX_ADVERT_BYTES = 8 * 1024
MAX_ID_BYTES = 280
"""A DNS name has at most 253 characters; brackets, colon and port fit in the rest."""

BUCKETS = 256
"""Anti-entropy compares the table in this many parts; with 2,000 members, about 8 in each part."""


class Status(IntEnum):
    """Verdict on a member. Within one incarnation a larger value replaces a smaller one."""

    ALIVE = 0
    """The member answers; only members with this status may be selected as a source."""
    STALLED = 1
    """Its kernel accepts connections but the process is silent: wait, do not declare it dead."""
    SUSPECT = 2
    """Nothing answers there, or one observer saw a crash: dead unless it refutes in time."""
    DEAD = 3
    """The member crashed, or was unreachable for as long as a suspicion lasts."""
    LEFT = 4
    """The member itself said goodbye."""

    @property
    def live(self) -> bool:
        """True while the member still takes part in the protocol."""
        return self <= Status.SUSPECT


@dataclass(frozen=True, slots=True)
class Record:
    """What is known here about one process start (generation) of one member."""

    id: MemberId
    generation: Generation
    incarnation: int
    """Only the member itself raises this, to refute what is said about it."""
    status: Status
    version: int
    """The member itself raises this with every new advert."""
    advert: Advert
    digest: int = field(init=False, compare=False, repr=False)
    """64 bits over everything except the advert's bytes, for which (generation, version) stand."""

    def __post_init__(self) -> None:
        text = f"{self.id}|{self.generation}|{self.incarnation}|{int(self.status)}|{self.version}"
        object.__setattr__(self, "digest", xxhash.xxh3_64_intdigest(text.encode()))

    def __hash__(self) -> int:
        return self.digest

    @property
    def order(self) -> tuple[int, int]:
        """Rank of the status half inside one generation."""
        return (self.incarnation, int(self.status))

    @property
    def edition(self) -> tuple[int, Advert]:
        """Rank of the advert half inside one generation.

        Two adverts under one version come only from a broken or forging sender. The bytes break the
        tie, so that everybody ends with the same advert.
        """
        return (self.version, self.advert)


@lru_cache(maxsize=4096)
def make_record(
    member: MemberId,
    generation: Generation,
    incarnation: int,
    status: Status,
    version: int,
    advert: Advert,
) -> Record:
    """A record, the same object for the same values, so that a simulation of thousands shares
    them."""
    return Record(member, generation, incarnation, status, version, advert)


def merge(a: Record, b: Record) -> Record:
    """Join of two records of the same member; returns `a` itself when `b` adds nothing.

    The larger generation wins as a whole. Inside a generation the larger (incarnation, status)
    gives the status half, and independently the larger version gives the advert half. So a
    suspicion that travelled with an old advert does not bring that advert back.
    """
    if a.id != b.id:
        raise LocalProtocolError(f"cannot merge records of {a.id} and {b.id}")
    if a.generation != b.generation:
        return a if a.generation > b.generation else b
    status = a if a.order >= b.order else b
    advert = a if a.edition >= b.edition else b
    if status is advert:
        return status
    return make_record(
        a.id, a.generation, status.incarnation, status.status, advert.version, advert.advert
    )


def new_generation(wall_ms: int, random_bits: int) -> Generation:
    """Generation of a process that starts at `wall_ms` (milliseconds since the epoch)."""
    low = random_bits & ((1 << GENERATION_RANDOM_BITS) - 1)
    # The last day of the format (in 2039) is kept for those that have to outbid somebody.
    latest = first_generation(started_ms(Generation(MAX_GENERATION)) - DAY_MS)
    return Generation(min(latest, first_generation(wall_ms) | low))


def first_generation(wall_ms: int) -> Generation:
    """The lowest generation of a process that starts at `wall_ms`; the format may have no room for
    it."""
    return Generation(max(0, wall_ms) << GENERATION_RANDOM_BITS)


def started_ms(generation: Generation) -> int:
    """Milliseconds since the epoch at which that process started, by its own clock."""
    return generation >> GENERATION_RANDOM_BITS


def new_record(member: MemberId, generation: Generation, advert: JsonObject) -> Record:
    """First record of a process: alive, with nothing refuted yet and its first advert."""
    return Record(member, generation, 0, Status.ALIVE, 1, pack_advert(advert))


def pack_advert(advert: JsonObject) -> Advert:
    """Canonical bytes of an advert; LocalProtocolError when it is not a JSON object or is too
    large."""
    try:
        packed = orjson.dumps(advert, option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"advert is not JSON: {error}") from error
    if not isinstance(advert, dict) or len(packed) > MAX_ADVERT_BYTES:
        raise LocalProtocolError(
            f"advert must be a JSON object of at most {MAX_ADVERT_BYTES} bytes, got {len(packed)}"
        )
    return Advert(packed)


def unpack_advert(advert: Advert) -> JsonObject:
    """The advert's JSON object, a new one every time, so that nobody shares a mutable object."""
    value = orjson.loads(advert)
    if not isinstance(value, dict):
        raise LocalProtocolError("advert is not a JSON object")
    return value


@lru_cache(maxsize=65536)
def position(member: MemberId) -> int:
    """Place on the ring, in 64 bits; scatters the workers of one host over the whole ring."""
    return xxhash.xxh3_64_intdigest(member.encode())


def bucket_of(member: MemberId) -> int:
    """Which of the `BUCKETS` parts of the table the member belongs to."""
    return position(member) % BUCKETS


@lru_cache(maxsize=65536)
def host_of(member: MemberId) -> str:
    """The host part, brackets of IPv6 included."""
    return member.rpartition(":")[0]
