"""The values that a setting may have, in words, read from the field that checks it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

_UNITS = {
    "_s": "seconds",
    "_bytes": "bytes",
    "rate_limit": "bytes per second",
    "min_rate": "bytes per second",
}
"""Units by the ending of a field's name."""


def allowed(name: str, field: FieldInfo) -> str:
    """The values that a field takes: `seconds, 0..3600`. Empty if its type does not say."""
    kinds = set(_kinds(field.annotation))
    choices = [str(choice) for kind in kinds for choice in _choices(kind)]
    if choices:
        return " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
    if bool in kinds:
        return "true or false"
    if not kinds & {int, float}:
        return ""
    unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
    bounds = limits(field)
    whole = "an integer" if int in kinds and not bounds.startswith("a multiple") else ""
    return ", ".join(part for part in (unit, whole, bounds) if part)


def limits(field: FieldInfo) -> str:
    """The bounds of a number: `1..64`, `at least 5`. Empty if there are none."""
    found = {
        name: value
        for mark in (*field.metadata, *_marks(field.annotation))
        for name in ("ge", "gt", "le", "multiple_of")
        if (value := getattr(mark, name, None)) is not None
    }
    least, most = found.get("ge"), found.get("le")
    if "gt" in found:
        text = f"more than {found['gt']}" + (f", at most {most}" if most is not None else "")
    elif least is not None and most is not None:
        text = f"{least}..{most}"
    elif least is not None:
        text = f"at least {least}"
    else:
        text = f"at most {most}" if most is not None else ""
    return f"a multiple of {found['multiple_of']} in {text}" if "multiple_of" in found else text


def _kinds(annotation: object) -> Iterator[object]:
    """The types behind an annotation, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in get_args(annotation):
            yield from _kinds(one)
    elif annotation is not type(None):
        yield annotation


def _marks(annotation: object) -> Iterator[object]:
    """Metadata beside the types of an annotation, including pydantic's constraints."""
    if get_origin(annotation) is Annotated:
        for mark in get_args(annotation)[1:]:
            yield from (mark.metadata if isinstance(mark, FieldInfo) else (mark,))
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _marks(one)


def _choices(kind: object) -> tuple[object, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()
