"""The keys by which rows are selected and sorted, and `-l`: selectors as kubectl has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mesh_inspect.view.rows import HoldingRow, matches
from netloader.discovery.advert import release_of

T = TypeVar("T")

Value = str | int | float | bool | None | tuple[str, ...]

KEYS: Final[Mapping[str, Callable[[HoldingRow], Value]]] = {
    "id": lambda row: row.member.id,
    "host": lambda row: row.member.host,
    "generation": lambda row: row.member.generation,
    "age": lambda row: row.member.age_s,
    "status": lambda row: row.status,
    "state": lambda row: None if row.holding is None else row.holding.state,
    "condition": lambda row: row.condition,
    "ready": lambda row: row.ready,
    "model": lambda row: row.model,
    "given": lambda row: row.given,
    "role": lambda row: row.role,
    "content": lambda row: row.content_id,
    "identity": lambda row: None if row.holding is None else row.holding.identity,
    "tp_rank": lambda row: row.place.tp_rank,
    "tp_size": lambda row: row.place.tp_size,
    "pp_rank": lambda row: row.place.pp_rank,
    "pp_size": lambda row: row.place.pp_size,
    "ep_rank": lambda row: row.place.ep_rank,
    "ep_size": lambda row: row.place.ep_size,
    "endpoint": lambda row: row.endpoint,
    "transport": lambda row: () if row.holding is None else row.holding.offered,
    "bytes": lambda row: row.nbytes,
    "held": lambda row: row.held,
    "rate": lambda row: row.rate,
    "serving": lambda row: row.serving,
    "pulling": lambda row: row.pulling,
    "origin": lambda row: None if row.holding is None else row.holding.origin or None,
    "weights": lambda row: row.weights_layout,
    "fabric": lambda row: row.fabric,
    "release": lambda row: release_of(row.member.advert) or None,
}
"""What each key means for a row. `condition` is the STATUS column; a key with several values, as
`transport`, has each of them."""


class SelectorError(ValueError):
    """A selector that cannot be read; the message says what is wrong and what is allowed."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector: a key whose value must be, or must not be, one of some."""

    key: str
    wanted: bool
    values: tuple[str, ...]
    """Texts or shell patterns."""

    def holds(self, row: HoldingRow) -> bool:
        """Whether a row is as required. One without a value is not what it must be."""
        value = KEYS[self.key](row)
        held = value if isinstance(value, tuple) else () if value is None else (value,)
        found = any(matches(_text(one), pattern) for one in held for pattern in self.values)
        return found == self.wanted


_PART: Final = re.compile(
    r"\s*(?P<key>[\w.-]+)\s*"
    r"(?:(?P<sign>==|=|!=)\s*(?P<value>[^,()]*?)"
    r"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))\s*(?:,|$)",
    re.ASCII,
)


def selector(text: str) -> tuple[Requirement, ...]:
    """`key=value`, `key!=value`, `key in (a,b)` and `key notin (a,b)`, joined by commas, all of
    which must hold. Nothing is required by an empty text. Raises SelectorError."""
    found = []
    at = 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise SelectorError(
                f"cannot read {text[at:]!r}: write key=value, key!=value, 'key in (a,b)' or "
                "'key notin (a,b)', with commas between them"
            )
        values = (part["value"],) if part["set"] is None else part["values"].split(",")
        found.append(
            Requirement(
                known_key(part["key"]),
                (part["set"] or part["sign"]) in ("in", "=", "=="),
                tuple(value.strip() for value in values),
            )
        )
        at = part.end()
    return tuple(found)


def known_key(key: str, keys: Iterable[str] = KEYS) -> str:
    """The key. Raises SelectorError, which names the keys, for an unknown one."""
    if key not in keys:
        raise SelectorError(f"there is no key {key!r}, only {', '.join(keys)}")
    return key


def selected(
    rows: Iterable[HoldingRow], requirements: Iterable[Requirement]
) -> tuple[HoldingRow, ...]:
    """The rows for which all requirements hold."""
    every = tuple(requirements)
    return tuple(row for row in rows if all(one.holds(row) for one in every))


def ordered(items: Iterable[T], by: str, keys: Mapping[str, Callable[[T], Value]]) -> tuple[T, ...]:
    """The items by the value of a key, the smallest first; with a `-` in front of the key, the
    largest. Those without a value come last, and equal ones stay as they are. Raises
    SelectorError."""
    value = keys[known_key(by.removeprefix("-"), keys)]
    valued = [(value(item), item) for item in items]
    known = [pair for pair in valued if pair[0] not in (None, ())]
    known.sort(key=lambda pair: _sortable(pair[0]), reverse=by.startswith("-"))
    return tuple(item for _, item in known) + tuple(
        item for value, item in valued if value in (None, ())
    )


def _sortable(value: Value) -> tuple[int | float, str]:
    if isinstance(value, tuple):
        return 0, ",".join(value)
    return (0, value) if isinstance(value, str) else (value or 0, "")


def _text(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def words(rows: Sequence[HoldingRow], key: str) -> set[str]:
    """The values that a key has in these rows, as a selector would name them."""
    found: set[str] = set()
    for row in rows:
        value = KEYS[key](row)
        held = value if isinstance(value, tuple) else () if value is None else (value,)
        found |= {_text(one) for one in held}
    return found
