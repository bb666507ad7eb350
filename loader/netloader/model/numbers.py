"""Numbers that post-processing computes from weights and keeps outside of tensors, such as scales.

A replica post-processes dummies, so its own numbers are wrong. The source's travel beside the
tensors, under the path of attributes that leads to each. Only floats do: flags, counts and texts
come from settings that the replica may have otherwise, so those have to be equal (`spelling.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from netloader.model.nodes import Fingerprint, ObjectNode, State


def numbers(found: Fingerprint) -> dict[str, float]:
    """Every float that is an attribute of a module, a parameter, or an object that hangs off one by
    attributes. By path."""
    held: dict[str, float] = {}
    seen: set[ObjectNode] = set()
    todo: deque[tuple[str, Mapping[str, State]]] = deque(
        (name, holder.attributes) for name, holder in found.holders.items()
    )
    while todo:
        path, values = todo.popleft()
        for key, state in values.items():
            if not key.isidentifier() or key.startswith("__"):
                continue
            where = f"{path}.{key}" if path else key
            if type(state) is float:
                held[where] = state
            elif isinstance(state, ObjectNode) and state.category == "object" and state not in seen:
                seen.add(state)
                todo.append((where, state.attributes))
    return held


def changed(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Numbers of `after` that are new or different."""
    return {
        path: value
        for path, value in after.items()
        if path not in before or repr(before[path]) != repr(value)
    }


def restored(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What a replica sets back after it has post-processed dummies: numbers that changed. Those
    that changed at the source too get the source's value; all others are as before there.

    `before`, `after`: the replica's numbers.
    """
    return {path: before[path] for path in changed(before, after) if path in before}
