"""Plain data: what may travel beside tensors, how it is written as JSON, and how much of it.

Plain data is scalars, and lists, tuples, sets and dicts of plain data. The types must match
exactly: a subclass has behaviour that the other side might not share. In JSON, scalars and lists
stand for themselves; each other type is an object whose one key names the type:

    (1, 2)        {"tuple": [1, 2]}
    {"b", "a"}    {"set": ["a", "b"]}           in an order that depends on the contents alone
    {"a": 1}      {"dict": [["a", 1]]}          keys may be anything hashable

Equal data is written the same way, and different data differently: True is not 1, 1 is not 1.0,
minus zero is not zero, a list is not a tuple, and the order of a dict counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from netloader.errors import ManifestError

Scalar = bool | int | float | str | None
Plain: TypeAlias = (
    "Scalar | list[Plain] | tuple[Plain, ...] | set[Plain] | frozenset[Plain] | dict[Plain, Plain]"
)
Json: TypeAlias = "Scalar | list[Json] | dict[str, Json]"

SCALARS: Final = frozenset({bool, int, float, str, type(None)})

MAX_VALUES: Final = 10_000
"""Scalars and containers, nested ones and keys included, in everything that one model sends."""
MAX_BYTES: Final = 1 << 20
"""Limit of JSON bytes in all. They travel with every `Accept`, whose frame has 4 MiB."""
MAX_DEPTH: Final = 8
"""Levels of nested containers."""
MAX_TEXT: Final = 2048
"""Characters in one string."""
MAX_COMPUTED: Final = 10_000
"""Digests of persistent buffers that a checkpoint does not fill. Models have a handful."""
MAX_BITS: Final = 4096
"""Bits in one integer: Python refuses to parse more than 4,300 digits."""

_ABSENT: Final = object()
_SEQUENCES: Final[Mapping[str, Callable[[Iterable[Plain]], Plain]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}


def is_plain(value: object) -> bool:
    """Whether `value` is plain data within the bounds of one value."""
    try:
        copied(value, "")
    except ManifestError:
        return False
    return True


def copied(value: object, path: str) -> Plain:
    """A copy of plain data that shares no container with `value`.

    `path`: where the value is, for errors. Raises `ManifestError` naming the first part that is not
    plain data or exceeds a bound.
    """
    return _copied(value, path, 0)


def encode(values: Mapping[str, Plain]) -> dict[str, Json]:
    """`values`, by path, as JSON values."""
    return {path: _encode(value) for path, value in values.items()}


def decode(values: object) -> dict[str, Plain]:
    """Read what `encode` wrote. Raises `ManifestError` for other input or beyond a bound."""
    if not isinstance(values, dict):
        raise ManifestError(f"attributes are a {type(values).__name__}, not an object")
    found = {str(path): _decode(value, 0) for path, value in values.items()}
    check(found)
    return found


def check(values: Mapping[str, Plain]) -> None:
    """Raises `ManifestError` when the values together exceed `MAX_VALUES` or `MAX_BYTES`."""
    count = sum(1 + _count(value) for value in values.values())
    if count > MAX_VALUES:
        raise ManifestError(f"attributes hold {count} values, {MAX_VALUES} can travel")
    try:
        size = len(json.dumps(encode(values), ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ManifestError("attributes hold text that is no Unicode") from None
    if size > MAX_BYTES:
        raise ManifestError(f"attributes take {size} bytes, {MAX_BYTES} can travel")


def spell(value: Plain) -> str:
    """`value` as Python would write it, with sets sorted. Equal texts mean equal values."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{spell(key)}: {spell(held)}" for key, held in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(spell, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(spell, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, (set, frozenset)):
        name = type(value).__name__
        inner = ", ".join(sorted(map(spell, value)))
        return f"{name}({{{inner}}})" if inner else f"{name}()"
    return repr(value)


def difference(one: Mapping[str, Plain], other: Mapping[str, Plain]) -> str | None:
    """The first attribute in which two sources differ, by path; None when there is none.

    Compares types and spelling: True is not 1, minus zero is not zero, and NaN equals NaN.
    """
    for path in sorted(one.keys() | other.keys()):
        first, second = (
            "nothing" if path not in values else spell(values[path]) for values in (one, other)
        )
        if (path in one) != (path in other) or first != second:
            return f"{path}: {first:.100}, {second:.100}"
    return None


def _copied(value: object, path: str, depth: int) -> Plain:
    kind = type(value)
    if depth > MAX_DEPTH:
        raise ManifestError(f"load_weights nested {path} deeper than {MAX_DEPTH} levels")
    if isinstance(value, str) and kind is str:
        if len(value) > MAX_TEXT:
            raise ManifestError(f"load_weights set {path} to {len(value)} characters")
        return value
    if isinstance(value, int) and kind is int and value.bit_length() > MAX_BITS:
        raise ManifestError(f"load_weights set {path} to an integer of {value.bit_length()} bits")
    if isinstance(value, Scalar) and kind in SCALARS:
        return value
    if isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > MAX_VALUES:
        raise ManifestError(f"load_weights set {path} to {len(value)} values")
    if isinstance(value, dict) and kind is dict:
        return {
            _copied(key, f"a key of {path}", depth + 1): _copied(
                held, f"{path}[{key!r:.40}]" if type(key) in SCALARS else path, depth + 1
            )
            for key, held in value.items()
        }
    if isinstance(value, list) and kind is list:
        return [_copied(held, f"{path}[{at}]", depth + 1) for at, held in enumerate(value)]
    if isinstance(value, (tuple, set, frozenset)) and kind in (tuple, set, frozenset):
        make = _SEQUENCES[kind.__name__]
        return make(_copied(held, f"{path}[{at}]", depth + 1) for at, held in enumerate(value))
    raise ManifestError(f"load_weights set {path} to a {kind.__name__}, which cannot travel")


def _encode(value: Plain) -> Json:
    if isinstance(value, dict):
        return {"dict": [[_encode(key), _encode(held)] for key, held in value.items()]}
    if isinstance(value, list):
        return [_encode(held) for held in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(held) for held in value]}
    if isinstance(value, (set, frozenset)):
        return {type(value).__name__: [_encode(held) for held in sorted(value, key=_order)]}
    return value


def _order(value: Plain) -> tuple[str, int | float, str]:
    """Sort key: numbers by value, everything else by how it is written."""
    name = type(value).__name__
    if isinstance(value, (int, float)) and value == value:
        return name, value, ""
    return name, 0, spell(value)


def _decode(value: object, depth: int) -> Plain:
    if depth > MAX_DEPTH:
        raise ManifestError(f"an attribute is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [_decode(held, depth + 1) for held in _bounded(value)]
    if not isinstance(value, dict):
        # Text and numbers have their own bounds.
        return copied(value, "an attribute")
    if len(value) != 1:
        raise ManifestError("an attribute is an object that names no type")
    ((name, held),) = value.items()
    if not isinstance(held, list):
        raise ManifestError(f"an attribute is a {name!r:.20} without a list")
    if name == "dict":
        pairs = [_pair(pair, depth + 1) for pair in _bounded(held)]
        return _all_told(dict, pairs)
    if name not in _SEQUENCES:
        raise ManifestError(f"an attribute is of an unknown type {name!r:.20}")
    return _all_told(_SEQUENCES[name], [_decode(item, depth + 1) for item in _bounded(held)])


def _pair(value: object, depth: int) -> tuple[Plain, Plain]:
    if not isinstance(value, list) or len(value) != 2:
        raise ManifestError("an entry of a dict is no pair")
    return _decode(value[0], depth), _decode(value[1], depth)


def _bounded(values: list[object]) -> list[object]:
    if len(values) > MAX_VALUES:
        raise ManifestError(f"an attribute has {len(values)} values, {MAX_VALUES} can travel")
    return values


def _all_told(make: Callable[..., Plain], items: list[Plain] | list[tuple[Plain, Plain]]) -> Plain:
    """A container of `items`. No item may be lost for being equal to another."""
    try:
        made = make(items)
    except TypeError:
        raise ManifestError("an attribute has a key that cannot be one") from None
    if isinstance(made, (dict, set, frozenset)) and len(made) != len(items):
        raise ManifestError("an attribute has the same key twice")
    return made


def _count(value: Plain) -> int:
    """How many values are inside `value`."""
    if isinstance(value, dict):
        return sum(2 + _count(key) + _count(held) for key, held in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(1 + _count(held) for held in value)
    return 0
