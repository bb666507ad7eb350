"""What `load_weights` leaves on a model besides tensors.

Most models' `load_weights` only fills tensors. Some also set flags (`has_own_lm_head` of EAGLE
drafts), fill containers (the names of a checkpoint's expert biases, which post-processing reads) or
build objects. A replica never runs `load_weights`, so the source finds such changes: it takes a
fingerprint of the model's state, by content, before and after. Plain data that changed travels with
the handshake and is set at the same place on the replica. If anything else changed, the model must
be loaded from storage.

A place is named by the attributes that lead to it: `layers.0.experts.loaded` on a module,
`layers.0.weight.flag` on a parameter, `layers.0.quant_method.state` on an object.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MemberDescriptorType
from typing import Final, NamedTuple

import torch
from torch import nn

from netloader import plain
from netloader.errors import ManifestError
from netloader.model.categories import category, is_settings
from netloader.model.fingerprint import INTERNAL, fingerprint
from netloader.model.nodes import Fingerprint, Holder, ObjectNode, State, alike
from netloader.model.parts import own_attributes
from netloader.plain import Plain, Scalar, difference

__all__ = ["Plain", "Scalar", "Snapshot", "apply", "changes", "difference", "snapshot", "values"]

Snapshot = Fingerprint

_log = logging.getLogger(__name__)

_ABSENT: Final = object()


def snapshot(model: nn.Module) -> Snapshot:
    """Everything that `model` holds now besides tensors, by content."""
    try:
        return fingerprint(model)
    except Exception as error:  # noqa: BLE001
        # A model may hold any object, and looking at one must not keep a model from starting.
        _log.exception("cannot look into what the model holds")
        return Fingerprint({}, f"the model: {error!r}")


def changes(model: nn.Module, before: Snapshot) -> dict[str, Plain]:
    """Attributes that are new or different since `before`: dotted path to value, as copies.

    A new but empty list, dict or set is a used-up work list and does not count. Neither does a
    `cached_property` that was read for the first time.

    Raises `ManifestError` naming the first change that cannot travel, or the state that could not
    be watched.
    """
    after = snapshot(model)
    if before.unseen or after.unseen:
        raise ManifestError(
            f"cannot tell what load_weights changes in {before.unseen or after.unseen}"
        )
    found = _Comparison().run(before, after)
    plain.check(found)
    return found


def apply(model: nn.Module, values: Mapping[str, Plain]) -> None:
    """Set the attributes that a source's `load_weights` had set. Containers are filled in place,
    because others may refer to them.

    Raises `ManifestError`, with nothing set, when any value has no place here.
    """
    places = [(_place(model, path), value) for path, value in values.items()]
    for place, value in places:
        place.put(value)


def values(model: nn.Module, paths: Iterable[str]) -> dict[str, Plain]:
    """What is now at these paths, where it is plain data, as copies. Post-processing may have
    used up what `load_weights` had set."""
    found: dict[str, Plain] = {}
    for path in paths:
        *names, key = path.split(".")
        owner: object = model
        for name in names:
            owner = _step(owner, name)
        now = own_attributes(owner).get(key, _ABSENT)
        if plain.is_plain(now):
            found[path] = plain.copied(now, path)
    return found


class _Pair(NamedTuple):
    """One object, before and after."""

    path: str
    before: ObjectNode
    after: ObjectNode
    fixed: str
    """Why nothing inside can travel; empty if it can."""


class _Comparison:
    """Finds the differences between two fingerprints of one model.

    Objects are compared in pairs, breadth first. A pair is made where the walk first meets it and
    must be the same wherever the walk meets it again: shared objects must stay shared.
    """

    def __init__(self) -> None:
        self._found: dict[str, Plain] = {}
        self._before: dict[ObjectNode, ObjectNode | None] = {}
        self._after: dict[ObjectNode, ObjectNode] = {}
        # Pairs that can travel go first, so an object gets a name by attributes if it has one.
        self._open: deque[_Pair] = deque()
        self._fixed: deque[_Pair] = deque()

    def run(self, before: Fingerprint, after: Fingerprint) -> dict[str, Plain]:
        if before.holders.keys() != after.holders.keys():
            name = min(before.holders.keys() ^ after.holders.keys())
            verb = "added" if name in after.holders else "removed"
            raise ManifestError(f"load_weights {verb} {name}")
        for name, holder in after.holders.items():
            self._holder(name, before.holders[name], holder)
        while self._open or self._fixed:
            self._inside((self._open or self._fixed).popleft())
        return self._found

    def _holder(self, name: str, before: Holder, after: Holder) -> None:
        if before.type is not after.type:
            raise ManifestError(
                f"load_weights made {name or 'the model'} a {after.type.__name__}, it was a "
                f"{before.type.__name__}"
            )
        if before.children != after.children:
            raise ManifestError(f"load_weights replaced modules of {name or 'the model'}")
        self._attributes(name, after.type, before.attributes, after.attributes, "")

    def _inside(self, pair: _Pair) -> None:
        """Compare the contents of two objects."""
        path, before, after, fixed = pair
        if after.category != "object":
            fixed = fixed or f"part of a {after.type.__name__}"
        elif is_settings(after.type):
            fixed = fixed or f"part of the settings of the process ({after.type.__name__})"
        # Containers were compared as a whole.
        if after.category in ("object", "function", "method", "tensor"):
            for key in {**before.items, **after.items}:
                one, other = before.items.get(key, _ABSENT), after.items.get(key, _ABSENT)
                if not self._same(path, one, other, fixed or f"a {after.type.__name__}"):
                    raise ManifestError(
                        f"load_weights changed {path} ({key}), a {after.type.__name__}, which "
                        "cannot travel"
                    )
        self._attributes(path, after.type, before.attributes, after.attributes, fixed)

    def _attributes(
        self,
        path: str,
        kind: type,
        before: Mapping[str, State],
        after: Mapping[str, State],
        fixed: str,
    ) -> None:
        if not before.keys() <= after.keys():
            gone = min(before.keys() - after.keys())
            raise ManifestError(f"load_weights removed {_join(path, gone)}")
        # Most values are identical objects, and this runs for everything that a model has.
        others = [key for key in after if after[key] is not before.get(key, _ABSENT)]
        for key in others:
            state, old = after[key], before.get(key, _ABSENT)
            if old is _ABSENT and (_is_used_up(state) or _is_lazy(kind, key)):
                continue
            where = _join(path, key)
            if self._same(where, old, state, fixed):
                continue
            if fixed:
                raise ManifestError(f"load_weights set {where}, {fixed}, which cannot travel")
            if not _is_name(key) or (issubclass(kind, nn.Module) and key in INTERNAL):
                raise ManifestError(f"load_weights set {where}, which cannot travel")
            if isinstance(state, ObjectNode) and state.category == "tensor":
                raise ManifestError(
                    f"load_weights set {where} to a {state.type.__name__}, which cannot travel"
                )
            live = state.of if isinstance(state, ObjectNode) else state
            self._found[where] = plain.copied(live, where)

    def _same(self, path: str, before: State, after: State, fixed: str) -> bool:
        """Whether two states are equal. The insides of objects are compared later."""
        if not isinstance(after, ObjectNode):
            return not isinstance(before, ObjectNode) and alike(before, after)
        if not isinstance(before, ObjectNode) or before.type is not after.type:
            self._new(path, after)
            return False
        if not _is_value(after) and not self._pair(path, before, after):
            return True
        if after.category not in ("sequence", "mapping", "set"):
            pair = _Pair(path, before, after, fixed)
            (self._fixed if fixed or is_settings(after.type) else self._open).append(pair)
            return True
        if before.attributes or after.attributes:
            self._fixed.append(_Pair(path, before, after, f"part of a {after.type.__name__}"))
        same = (
            before.items.keys() == after.items.keys()
            if after.category == "set"
            else list(before.items) == list(after.items)
        )
        for key, state in after.items.items():
            old = before.items.get(key, _ABSENT)
            if state is not old:
                same &= self._same(f"{path}[{_shown(key)}]", old, state, f"in {path}")
        return same

    def _new(self, path: str, after: State) -> None:
        """Note that this state and its contents are new."""
        if not isinstance(after, ObjectNode) or (
            not _is_value(after) and not self._pair(path, None, after)
        ):
            return
        for key, state in after.items.items():
            self._new(f"{path}[{_shown(key)}]", state)

    def _pair(self, path: str, before: ObjectNode | None, after: ObjectNode) -> bool:
        """Note that these two nodes are one object. False if this was known already."""
        if after in self._before:
            if before is not None and self._before[after] is before:
                return False
        elif before is None:
            self._before[after] = None
            return True
        elif before not in self._after:
            self._before[after] = before
            self._after[before] = after
            return True
        raise ManifestError(
            f"load_weights changed who shares {path}, a {after.type.__name__}, with others, which "
            "cannot travel"
        )


class _AttributeSlot(NamedTuple):
    """The place of one value."""

    owner: object
    key: str

    def put(self, value: Plain) -> None:
        slot = inspect.getattr_static(type(self.owner), self.key, None)
        now = own_attributes(self.owner).get(self.key, _ABSENT)
        filled = _filled(now, value)
        if isinstance(slot, MemberDescriptorType):
            slot.__set__(self.owner, filled)
        else:
            # The source has it in `__dict__` too, so bypass the class's `__setattr__`.
            object.__getattribute__(self.owner, "__dict__")[self.key] = filled


def _place(model: nn.Module, path: str) -> _AttributeSlot:
    """The place at `path`. Raises `ManifestError` when plain data cannot be set there."""
    *names, key = path.split(".")
    owner: object = model
    for at, name in enumerate(names):
        owner = _step(owner, name)
        if owner is _ABSENT:
            raise ManifestError(
                f"the source set {path}, but there is no {'.'.join(names[: at + 1])} here"
            )
    own = own_attributes(owner)
    held = own.get(key, _ABSENT)
    of_class = inspect.getattr_static(type(owner), key, _ABSENT)
    is_free = held is _ABSENT and (
        isinstance(of_class, MemberDescriptorType)
        or (hasattr(owner, "__dict__") and (of_class is _ABSENT or plain.is_plain(of_class)))
    )
    taken = isinstance(owner, nn.Module) and (
        key in INTERNAL
        or key in owner._parameters
        or key in owner._buffers
        or key in owner._modules
    )
    if taken or not _is_name(key) or not (is_free or plain.is_plain(held)):
        raise ManifestError(f"the source set {path}, which is no plain attribute here")
    return _AttributeSlot(owner, key)


def _step(owner: object, name: str) -> object:
    """The module, tensor or object that `owner` has as `name`; `_ABSENT` if there is none."""
    if isinstance(owner, nn.Module):
        for table in (owner._modules, owner._parameters, owner._buffers):
            held = table.get(name)
            if held is not None:
                return held
        if name in INTERNAL:
            return _ABSENT
    found = own_attributes(owner).get(name, _ABSENT)
    is_object = category(type(found)) == "object" and not is_settings(type(found))
    return found if is_object or isinstance(found, torch.Tensor) else _ABSENT


def _filled(place: object, value: Plain) -> Plain:
    """`value`, put into the containers already at its place if these have the same type."""
    if isinstance(value, list):
        listed: list[Plain] = place if type(place) is list else []
        listed[:] = _each_filled(listed, value)
        return listed
    if isinstance(value, tuple):
        return tuple(_each_filled(place if type(place) is tuple else (), value))
    if isinstance(value, dict):
        table: dict[Plain, Plain] = place if type(place) is dict else {}
        items = {key: _filled(table.get(key, _ABSENT), new) for key, new in value.items()}
        table.clear()
        table.update(items)
        return table
    if isinstance(value, set):
        members: set[Plain] = place if type(place) is set else set()
        members.clear()
        members.update(value)
        return members
    return value


def _each_filled(places: Sequence[object], values: Sequence[Plain]) -> list[Plain]:
    padded = [*places[: len(values)], *[_ABSENT] * (len(values) - len(places))]
    return [_filled(place, value) for place, value in zip(padded, values, strict=True)]


def _is_value(node: ObjectNode) -> bool:
    """Whether two equal ones are indistinguishable, so that sharing does not matter."""
    return node.type in (tuple, frozenset) or node.category == "method"


def _is_used_up(state: State) -> bool:
    """Whether this is a work list that `load_weights` made and used up."""
    return isinstance(state, ObjectNode) and state.type in (dict, list, set) and not state.items


def _is_lazy(kind: type, key: str) -> bool:
    """Whether the attribute is computed when first read, as it will be on the replica."""
    return isinstance(inspect.getattr_static(kind, key, None), functools.cached_property)


def _is_name(key: str) -> bool:
    return key.isidentifier() and not key.startswith("__")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(key: object) -> str:
    key = key[-1] if isinstance(key, tuple) and key else key
    return f"{key!r:.40}"
