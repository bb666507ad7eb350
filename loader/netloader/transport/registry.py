"""Which backend carries bytes between devices of which kind: one entry each.

The `memory` backend has no entry. Both its ends live in one process, and every vLLM worker is a
process of its own. An operator who could select `memory` would get a worker that no peer can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from netloader.transport.base import Backend
from netloader.transport.gloo import GlooBackend

BACKENDS: Final[Mapping[str, Callable[[], Backend]]] = {"cpu": GlooBackend}
"""Backends by torch's device type. Making a backend may import a device's library, so a backend is
made only when a device of its kind needs it."""


def backend_for(device_type: str) -> Backend | None:
    """The backend for devices of this torch type; None when there is none yet."""
    make = BACKENDS.get(device_type)
    return None if make is None else make()
