"""What `load_weights` leaves on a model besides tensors.

Most models' `load_weights` only fills tensors. Some also set flags (`has_own_lm_head` of EAGLE
drafts) or build things. A replica never runs `load_weights`, so the source finds out by comparing
the modules' attributes before and after: plain values travel with the handshake and are set on the
replica; anything else makes the model one that must be loaded from storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import nn

from netloader.control import MAX_TEXT
from netloader.errors import ManifestError

Scalar = bool | int | float | str | None

_ABSENT: Final = object()
_MAX_CHANGES = 10_000


def snapshot(model: nn.Module) -> dict[str, dict[str, object]]:
    """Every module's own attributes, by module name. Tensors and submodules are not among them."""
    return {name: _own(module) for name, module in model.named_modules()}


def changes(model: nn.Module, before: Mapping[str, Mapping[str, object]]) -> dict[str, Scalar]:
    """Attributes that are new or different since `before`: dotted path to value.

    Raises `ManifestError` naming the first changed attribute that is no plain value. Modules that
    appeared or vanished show up in the manifest and are not looked at here.
    """
    found: dict[str, Scalar] = {}
    for name, module in model.named_modules():
        if name not in before:
            continue
        for key, value in _own(module).items():
            old = before[name].get(key, _ABSENT)
            if value is old or _is_empty(value):
                continue
            if not isinstance(value, Scalar):
                raise ManifestError(
                    f"load_weights set {name}.{key} to a {type(value).__name__}, which cannot "
                    "travel"
                )
            if isinstance(value, str) and len(value) > MAX_TEXT:
                raise ManifestError(f"load_weights set {name}.{key} to {len(value)} characters")
            if type(value) is not type(old) or value != old:
                found[f"{name}.{key}" if name else key] = value
    if len(found) > _MAX_CHANGES:
        raise ManifestError(f"load_weights changed {len(found)} attributes")
    return found


def apply(model: nn.Module, values: Mapping[str, Scalar]) -> None:
    """Set what a source's `load_weights` had set. Raises `ManifestError`, with nothing set, when
    some of it has no place here."""
    found: list[tuple[nn.Module, str, Scalar]] = []
    for path, value in values.items():
        name, _, key = path.rpartition(".")
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise ManifestError(f"the source set {path}, but there is no module {name!r}") from None
        if key in module._parameters or key in module._buffers or key in module._modules:
            raise ManifestError(f"the source set {path}, which is no plain attribute here")
        if not isinstance(getattr(module, key, None), Scalar):
            raise ManifestError(f"the source set {path}, which is no plain attribute here")
        found.append((module, key, value))
    for module, key, value in found:
        setattr(module, key, value)


def difference(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> str | None:
    """The first attribute in which two sources differ, by path; None when there is none.

    By type and spelling: True is not 1, minus zero is not zero, and NaN is NaN.
    """
    for path in sorted(one.keys() | other.keys()):
        values = one.get(path, _ABSENT), other.get(path, _ABSENT)
        first, second = ("nothing" if value is _ABSENT else f"{value!r:.100}" for value in values)
        if type(values[0]) is not type(values[1]) or repr(values[0]) != repr(values[1]):
            return f"{path}: {first}, {second}"
    return None


def _own(module: nn.Module) -> dict[str, object]:
    return {key: value for key, value in vars(module).items() if key not in _TORCH}


def _is_empty(value: object) -> bool:
    """A work list that `load_weights` made and used up."""
    return isinstance(value, (dict, list, set)) and not value


_TORCH = frozenset(vars(nn.Module()))
"""What every module has: parameters, buffers, submodules, hooks, the training flag."""
