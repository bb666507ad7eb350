"""Everything that two models may differ in, by path: tensors, and state besides tensors.

`tensors` are those that a model has when it is ready to run. `state` is what
`netloader.model.fingerprint` finds, written so that two builds in one process can be compared: by
content, and where something is shared, by the path at which it was met first. What differs between
two builds of one model although nothing is wrong is left out, each with a reason (`IGNORED`).
"""

from __future__ import annotations

import enum
import hashlib
import re
import types
from collections.abc import Hashable, Iterator
from typing import Final

import torch
from torch import nn

from netloader.model.fingerprint import fingerprint
from netloader.model.nodes import (
    Fingerprint,
    Method,
    Name,
    ObjectNode,
    State,
    TensorState,
)

IGNORED: Final = {
    r"(^|\.)load_config\.model_loader_extra_config": "tells this worker where its sources are",
    r"(^|\.)compilation_config\.(en|dis)abled_custom_ops\[\]": "counts what this process built",
    r"(^|\.)vllm_config\.instance_id$": "random, of each engine",
    r"^model\._pending_indexer_wk_fp8(\[\])?$": "a work list that DeepSeek's load_weights used up",
    r"\.dnnl_handler\.handler_tensor\[\]$": "the address of weights packed by oneDNN",
}
"""Patterns of paths, each with why what is there differs between equal models."""

_IGNORED: Final = re.compile("|".join(f"(?:{pattern})" for pattern in IGNORED))


def tensors(model: nn.Module) -> dict[str, str]:
    """SHA-256 of parameters and buffers that have elements, by each of their names."""
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {
        name: f"{tuple(tensor.shape)} {tensor.dtype} {_sha256(tensor)}"
        for name, tensor in named
        if tensor.numel()
    }


def state(model: nn.Module) -> dict[str, str]:
    """What `model` holds besides tensors: path to contents. Raises when some was not looked at."""
    found = fingerprint(model)
    if found.unseen:
        raise AssertionError(f"not looked at: {found.unseen}")
    return {path: text for path, text in _lines(found) if not _IGNORED.search(path)}


def differing(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Paths at which two of these differ."""
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _sha256(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy()).hexdigest()


def _lines(found: Fingerprint) -> Iterator[tuple[str, str]]:
    todo: list[tuple[str, ObjectNode]] = []
    seen: dict[ObjectNode, str] = {}

    def text(path: str, state: State) -> str:
        if isinstance(state, ObjectNode):
            if state not in seen:
                seen[state] = path
                todo.append((path, state))
                return f"a {_name(state.type)}"
            return f"the {_name(state.type)} of {seen[state]}"
        return _leaf(state)

    def attributes(path: str, held: dict[str, State]) -> Iterator[tuple[str, str]]:
        for key in sorted(held):
            where = f"{path}.{key}" if path else key
            yield where, text(where, held[key])

    for name, holder in found.holders.items():
        yield name, f"{_name(holder.type)} of {sorted(holder.children.items())}"
        yield from attributes(name, holder.attributes)
    for path, node in todo:  # Grows meanwhile.
        yield from attributes(path, node.attributes)
        items = [
            (_key(key), text(f"{path}[{_key(key)}]", held)) for key, held in node.items.items()
        ]
        if node.category == "set":
            items.sort()
        yield f"{path}[]", str(items)


def _leaf(state: State) -> str:
    if isinstance(state, Method):
        return f"{state.function.__qualname__} of {state.owner!r}"
    if isinstance(state, (Name, TensorState)):
        return f"{type(state).__name__} {state}"
    if isinstance(state, types.CodeType):
        return f"code {state.co_qualname} {hashlib.sha256(state.co_code).hexdigest()}"
    if isinstance(state, (type, types.FunctionType, types.BuiltinFunctionType)):
        return f"{state.__module__}.{state.__qualname__}"
    if isinstance(state, (bool, int, float, str, bytes, complex, type(None), torch.Size)):
        return f"{type(state).__name__} {state!r}"
    if isinstance(state, (torch.dtype, torch.device)):
        return str(state)
    if isinstance(state, enum.Enum):
        return f"{_name(type(state))}.{state.name}"
    # The rest is its type: what has no contents to be compared has an address at best.
    return _name(type(state))


def _key(key: Hashable) -> str:
    if isinstance(key, tuple):
        # Of an object that is a key the last part is its address.
        return ", ".join(map(_key, key[:1] if key[1:2] == ("object",) else key))
    if isinstance(key, frozenset):
        return f"{{{', '.join(sorted(map(_key, key)))}}}"
    return _name(key) if isinstance(key, type) else f"{key!r}"


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
