"""What decides how post-processing lays out a model, as the built model and its device tell it.

Post-processing turns weights into what the chosen kernels read. Which kernels those are is found in
the built model: vLLM's layers hold objects (quantisation methods, schemes, kernels, attention
implementations), classes and enums for every choice. Two models with the same objects of the same
code on the same chip are laid out alike.
"""

from __future__ import annotations

import enum
import platform
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Final

import torch
from torch import nn

from netloader.model.categories import category, is_machinery, is_settings
from netloader.model.parts import own_attributes
from netloader.model.spelling import class_name

_DEPTH: Final = 3
"""Steps from a module: method, scheme, kernel."""

_MAX_TEXT: Final = 400
"""Characters of the choices of one class of modules that travel as they are."""

_PLAIN_MODULES: Final = ("builtins", "torch", "collections", "functools", "types", "typing")


def chosen(model: nn.Module) -> dict[str, str]:
    """`kernel.CLASS` of each class of modules: the objects, classes and enums that such modules
    hold, each with the attributes that lead to it, sorted."""
    found: dict[str, set[str]] = {}
    for module in model.modules():
        names = found.setdefault(type(module).__name__, set())
        names.update(_choices(vars(module), "", 1, set()))
    return {f"kernel.{name}": _text(kinds) for name, kinds in found.items() if kinds}


def chip(device_type: str) -> str:
    """The device's name as torch tells it; of a processor, the instructions that it has."""
    if device_type != "cpu":
        return str(torch.get_device_module(device_type).get_device_name())
    ask = getattr(torch.cpu, "get_capabilities", None)  # torch has this since 2.10.
    known: Mapping[str, object] = ask() if ask is not None else {}
    has = sorted(name for name, value in known.items() if value is True)
    return " ".join([platform.machine(), torch.backends.cpu.get_cpu_capability(), *has])


def _text(choices: Iterable[str]) -> str:
    """All of them, the last ones as a digest: adverts travel to everybody."""
    text = " ".join(sorted(choices))
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_MAX_TEXT]}... {blake2b(text.encode(), digest_size=8).hexdigest()}"


def _choices(held: Mapping[str, object], above: str, depth: int, seen: set[int]) -> Iterator[str]:
    for name, value in held.items():
        kind, where = type(value), f"{above}{name}"
        if isinstance(value, enum.Enum):
            yield f"{where}={value.name}"
        elif isinstance(value, type):
            yield f"{where}={value.__name__}"
        elif id(value) not in seen and _is_choice(kind):
            seen.add(id(value))
            yield f"{where}={class_name(kind).rpartition('.')[2]}"
            if depth < _DEPTH:
                yield from _choices(own_attributes(value), f"{where}.", depth + 1, seen)


def _is_choice(kind: type) -> bool:
    if issubclass(kind, (nn.Module, torch.Tensor)) or is_settings(kind) or is_machinery(kind):
        return False
    return category(kind) == "object" and kind.__module__.partition(".")[0] not in _PLAIN_MODULES
