"""A model's state besides tensors as text, so that two processes can compare it.

Lines spell contents. Where something is shared, they name the place at which the walk met it first.
Whatever belongs to the process and not to the model (locks, groups, settings) is only its class.
Attributes that are computed when first read are left out, and so are empty lists, dicts and sets:
`load_weights` leaves used-up work lists, and a replica never runs it.

Some objects hold what no text can spell, such as the packed weights behind a handle of another
library. `Spelling.opaque` names the first of them.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import pathlib
import re
import types
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
import xxhash

from netloader.model.categories import is_machinery, is_settings
from netloader.model.nodes import Fingerprint, Method, Name, ObjectNode, State, TensorState

MAX_GROUPS: Final = 4096
"""Digests of the state of one model, each with the name of a module."""

_BY_TEXT: Final = (
    torch.Size,
    torch.dtype,
    torch.layout,
    torch.memory_format,
    pathlib.PurePath,
    range,
)
_BY_NAME: Final = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_WITHOUT_VALUE: Final = (torch.Stream, torch.Event)
"""They order work on a device."""


class SpelledPlace(NamedTuple):
    """What is at one place."""

    holder: str
    """The module or parameter from which the walk came there."""
    path: str
    text: str


@dataclass(frozen=True)
class Spelling:
    """A model's state besides tensors."""

    lines: tuple[SpelledPlace, ...]
    opaque: str
    """A place that holds more than the lines tell, and why; empty when there is none."""

    def digests(self) -> dict[str, str]:
        """32 hex digits by module: `MAX_GROUPS` at most, so modules may stand for those inside."""
        holders = {line.holder for line in self.lines}
        depth = 32
        while len({_outer(name, depth) for name in holders}) > MAX_GROUPS:
            depth -= 1
        hashes: dict[str, xxhash.xxh3_128] = {}
        for line in self.lines:
            made = hashes.setdefault(_outer(line.holder, depth), xxhash.xxh3_128())
            made.update(f"{line.path}\0{line.text}\0".encode("utf-8", "surrogatepass"))
        return {name: made.hexdigest() for name, made in hashes.items()}


def spell(found: Fingerprint) -> Spelling:
    """Spell everything in a fingerprint."""
    speller = _Speller()
    return Spelling(tuple(speller.lines(found)), speller.opaque)


def difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """The first module whose digests differ; None when all are equal."""
    differing = (
        name for name in dict.fromkeys([*mine, *theirs]) if mine.get(name) != theirs.get(name)
    )
    return next(differing, None)


class _Speller:
    def __init__(self) -> None:
        self.opaque = ""
        self._open: deque[tuple[str, str, ObjectNode]] = deque()
        self._seen: dict[ObjectNode, str] = {}

    def lines(self, found: Fingerprint) -> Iterator[SpelledPlace]:
        for name, holder in found.holders.items():
            children = sorted(holder.children.items())
            yield SpelledPlace(name, name, f"{class_name(holder.type)} of {children}")
            yield from self._attributes(name, name, holder.type, holder.attributes)
        while self._open:
            holder_name, path, node = self._open.popleft()
            yield from self._attributes(holder_name, path, node.type, node.attributes)
            items = [
                (_key(key), self._text(holder_name, f"{path}[{_key(key)}]", held))
                for key, held in node.items.items()
            ]
            if node.category == "set":
                items.sort()
            yield SpelledPlace(holder_name, f"{path}[]", str(items))

    def _attributes(
        self, holder: str, path: str, kind: type, held: Mapping[str, State]
    ) -> Iterator[SpelledPlace]:
        for key in sorted(held):
            if isinstance(inspect.getattr_static(kind, key, None), functools.cached_property):
                continue
            if _is_used_up(held[key]):
                continue
            where = f"{path}.{key}" if path else key
            yield SpelledPlace(holder, where, self._text(holder, where, held[key]))

    def _text(self, holder: str, path: str, state: State) -> str:
        if not isinstance(state, ObjectNode):
            text = _leaf(state)
            if text is None:
                self._miss(path, f"a {class_name(type(state))}, which nothing can look into")
            return text or class_name(type(state))
        if state not in self._seen:
            self._seen[state] = path
            self._open.append((holder, path, state))
            if hasattr(state.type, "__del__"):
                self._miss(path, f"a {class_name(state.type)}, which owns something outside Python")
            return f"a {class_name(state.type)}"
        return f"the {class_name(state.type)} of {self._seen[state]}"

    def _miss(self, path: str, why: str) -> None:
        self.opaque = self.opaque or f"{path}: {why}"


def _leaf(state: State) -> str | None:
    """What is spelled of a value; None for one of which nobody knows what it holds."""
    if isinstance(state, Method):
        return f"{state.function.__qualname__} of {state.owner!r}"
    if isinstance(state, TensorState):
        device = state.device.type if state.device is not None else ""
        return f"{state.dtype} {tuple(state.shape)} {state.stride} {device} {state.content!r}"
    if isinstance(state, types.CodeType):
        return f"code {state.co_qualname} {hashlib.sha256(state.co_code).hexdigest()}"
    if isinstance(state, _BY_NAME):
        return (
            f"{getattr(state, '__module__', '')}.{getattr(state, '__qualname__', state.__name__)}"
        )
    if state is None or isinstance(state, (Name, bool, int, float, str, bytes, complex)):
        return f"{type(state).__name__} {state!r}"
    if isinstance(state, torch.device):
        # Which of a host's devices it is differs between workers that share.
        return state.type
    if isinstance(state, enum.Enum):
        return f"{class_name(type(state))}.{state.name}"
    if isinstance(state, re.Pattern):
        return f"pattern {state.pattern!r} {state.flags}"
    if isinstance(state, np.generic):
        return f"{state.dtype} {state.tobytes()!r}"
    if isinstance(state, _BY_TEXT):
        return f"{type(state).__name__} {state}"
    kind = type(state)
    if isinstance(state, _WITHOUT_VALUE) or is_machinery(kind) or is_settings(kind):
        return class_name(kind)
    return None


def _is_used_up(state: State) -> bool:
    return isinstance(state, ObjectNode) and state.type in (dict, list, set) and not state.items


def _key(key: Hashable) -> str:
    if isinstance(key, tuple):
        # Of an object that is a key the last part is its address.
        return ", ".join(map(_key, key[:1] if key[1:2] == ("object",) else key))
    if isinstance(key, frozenset):
        return f"{{{', '.join(sorted(map(_key, key)))}}}"
    return class_name(key) if isinstance(key, type) else f"{key!r}"


def class_name(kind: type) -> str:
    """A class by its full name."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _outer(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])
