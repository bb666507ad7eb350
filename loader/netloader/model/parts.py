"""What belongs to one object, read without running code of its class.

No property, no `__eq__`, no `__iter__` and no `__getattr__` runs.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Hashable
from typing import Final

from netloader.model.categories import ATOMS, BY_VALUE, slots

_TABLES: Final = {
    "CompilationConfig": ("static_forward_context", "static_all_moe_layers"),
}
"""Attributes that list the layers of all models in the process. Layers are walked as part of their
own model; otherwise a draft's walk would read its target's experts."""

RAW_KEYS: Final = frozenset({str, int})
"""Keys of these types equal no key of another type but floats and bools, which `unique_key`
marks."""


def own_attributes(value: object) -> dict[str, object]:
    """An object's `__dict__` and slot values, read without running code of its class."""
    kind: type = type(value)
    try:
        found: dict[str, object] = object.__getattribute__(value, "__dict__").copy()
    except AttributeError:
        found = {}
    for name, slot in slots(kind).items():
        try:
            found[name] = slot.__get__(value)
        except AttributeError:
            continue  # Declared but not set.
    if kind.__name__ in _TABLES and kind.__module__ == "vllm.config.compilation":
        for name in _TABLES[kind.__name__]:
            found.pop(name, None)
    return found


def parts_of(function: types.FunctionType) -> dict[Hashable, object]:
    """The parts of a function, without the globals of its module."""
    parts: dict[Hashable, object] = {"__code__": function.__code__}
    for at, value in enumerate(function.__defaults__ or ()):
        parts[f"default {at}"] = value
    for key, value in (function.__kwdefaults__ or {}).items():
        parts[f"default {key}"] = value
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts[f"closure {key}"] = cell.cell_contents
        except ValueError:
            continue  # Not yet set.
    return parts


def unique_key(value: object) -> Hashable:
    """A key or element, marked so that equal ones of different types stay distinct."""
    kind = type(value)
    if kind in RAW_KEYS:
        return value
    if kind is float:
        return kind, repr(value)
    if kind in ATOMS:
        return kind, value
    if isinstance(value, (tuple, frozenset)) and kind in (tuple, frozenset):
        return kind, kind(map(unique_key, value))
    if isinstance(value, enum.Enum):
        return kind, value.name
    if isinstance(value, BY_VALUE):
        return kind, value
    return kind, "object", id(value)
