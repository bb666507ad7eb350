"""Set reconciliation for anti-entropy: the difference of two tables, and pages of a whole one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from netmesh.core.claims import Claim, head, whole
from netmesh.core.fields import claim_bytes, entry_bytes
from netmesh.core.messages import Entry
from netmesh.core.records import BUCKETS, MemberId, Record, Status, bucket_of
from netmesh.core.table import Table

HASH_MASK = 0xFFFFFFFF
"""Bucket hashes travel as 32 bits. A difference goes unseen with probability 2**-32; the root has
64 bits."""
DIGEST_TOMBSTONES = 64
"""Newest tombstones listed in a full digest."""
WANT_LIMIT = 2048
WANT_BYTES = 64 * 1024
"""Bytes that the ids of members asked for in one exchange may take. So the message stays below the
frame limit with a page of claims beside the ids, however long they are."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Outcome of comparing my table with a digest of another."""

    news: tuple[Claim, ...]
    """What the other lacks."""
    heads: tuple[Claim, ...]
    """Status halves in which the other is ahead; taking them over needs no advert."""
    want: tuple[MemberId, ...]
    """Members whose advert I lack."""
    more: bool
    """Not everything fitted into one message."""


def bucket_hashes(table: Table) -> tuple[int, ...]:
    """The hash of each part of the table, as sent."""
    return tuple(value & HASH_MASK for value in table.hashes)


def differing(table: Table, hashes: tuple[int, ...]) -> list[int]:
    """Buckets in which the other table differs from mine."""
    return [b for b in range(BUCKETS) if table.hashes[b] & HASH_MASK != hashes[b]]


@lru_cache(maxsize=4096)
def _entry(record: Record) -> Entry:
    return Entry(
        record.id,
        record.generation,
        record.incarnation,
        int(record.status),
        record.version,
    )


def full_digest(table: Table) -> tuple[Entry, ...]:
    """Every live member, and the newest tombstones."""
    entries = [_entry(table.records[member]) for member in table.ring]
    for count, member in enumerate(reversed(table.tombstones)):
        if count == DIGEST_TOMBSTONES:
            break
        entries.append(_entry(table.records[member]))
    return tuple(entries)


def bucket_digest(
    table: Table, buckets: list[int], budget: int
) -> tuple[tuple[int, ...], tuple[Entry, ...]]:
    """Entries of as many of these buckets as fit into `budget` bytes.

    At least one bucket is listed, as far as its entries fit. The other side takes the rest for
    unknown here and tells it again, which costs one page.
    """
    tombstones: dict[int, list[MemberId]] = {bucket: [] for bucket in buckets}
    for member in table.tombstones:
        known = tombstones.get(bucket_of(member))
        if known is not None:
            known.append(member)
    done: list[int] = []
    entries: list[Entry] = []
    for bucket in buckets:
        members = table.in_bucket(bucket) + tombstones[bucket]
        cost = sum(entry_bytes(member) for member in members)
        if done and cost > budget:
            break
        done.append(bucket)
        if cost > budget:  # ids made to collide
            most = max(1, budget // max(map(entry_bytes, members)))
            members = members[:most]
        budget -= cost
        entries += [_entry(table.records[member]) for member in members]
    return tuple(done), tuple(entries)


def compare(
    table: Table, buckets: tuple[int, ...], entries: Iterable[Entry], budget: int
) -> Difference:
    """Compare my table with a digest of these buckets (none named: of the whole table)."""
    news: list[Claim] = []
    heads: list[Claim] = []
    want: list[MemberId] = []
    listed: set[MemberId] = set()
    for theirs in entries:
        listed.add(theirs.id)
        mine = table.records.get(theirs.id)
        if mine is None or mine.generation < theirs.generation:
            if theirs.status <= Status.SUSPECT:
                want.append(theirs.id)
            continue
        if mine.generation > theirs.generation:
            news.append(whole(mine))
            continue
        order = (theirs.incarnation, theirs.status)
        if mine.version > theirs.version and mine.status.live:
            news.append(whole(mine))
        elif mine.order > order:
            news.append(head(mine))
        if theirs.version > mine.version:
            want.append(theirs.id)
        if order > mine.order:
            heads.append(
                Claim(
                    theirs.id,
                    theirs.generation,
                    theirs.incarnation,
                    Status(theirs.status),
                    mine.version,
                )
            )
    places: Iterable[int] = buckets if buckets else range(BUCKETS)
    for bucket in places:
        for member in table.in_bucket(bucket):
            if member not in listed:
                news.append(whole(table.records[member]))
    kept = _fit(news, budget)
    asked = _first(want)
    more = len(kept) < len(news) or len(asked) < len(want)
    return Difference(kept, tuple(heads), asked, more)


def _first(want: list[MemberId]) -> tuple[MemberId, ...]:
    """As many of the wanted as fit into one message."""
    room = WANT_BYTES
    for count, member in enumerate(want[:WANT_LIMIT]):
        room -= len(member) + 3
        if room < 0:
            return tuple(want[:count])
    return tuple(want[:WANT_LIMIT])


def page(
    table: Table, cursor: int, budget: int, *, since: float | None
) -> tuple[tuple[Claim, ...], int | None]:
    """Live members from bucket `cursor` on, in as many whole buckets as fit (at least one).

    With `since`, members that died after that time are added to the first page. The second value is
    the cursor of the next page, None at the end.
    """
    claims: list[Claim] = []
    if since is not None and cursor == 0:
        dead = [whole(r) for r in table.shown(since) if not r.status.live]
        claims += _fit(dead, budget // 2)
        budget -= sum(claim_bytes(claim) for claim in claims)
    started = False
    for bucket in range(cursor, BUCKETS):
        members = table.in_bucket(bucket)
        if not members:
            continue
        there = [whole(table.records[member]) for member in members]
        cost = sum(claim_bytes(claim) for claim in there)
        if started and cost > budget:
            return tuple(claims), bucket
        # A bucket larger than a page means ids made to collide: send what fits.
        claims += there if cost <= budget else _fit(there, budget)
        budget -= cost
        started = True
    return tuple(claims), None


def records_of(
    table: Table, members: Iterable[MemberId], budget: int
) -> tuple[tuple[Claim, ...], bool]:
    """Whole records of these members, as far as they fit, and whether any was left out."""
    found = [whole(r) for r in (table.get(member) for member in members) if r is not None]
    kept = _fit(found, budget)
    return kept, len(kept) < len(found)


def _fit(claims: list[Claim], budget: int) -> tuple[Claim, ...]:
    for count, claim in enumerate(claims):
        budget -= claim_bytes(claim)
        if budget < 0 and count:
            return tuple(claims[:count])
    return tuple(claims)
