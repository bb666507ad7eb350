"""Which backend carries bytes between devices of which kind: one entry each.

`memory` has none. Both its ends live in one process, and every vLLM worker is a process of its own:
an operator who could select it would have a worker that no peer can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from netloader.transport.base import Backend
from netloader.transport.gloo import GlooBackend

BACKENDS: Final[Mapping[str, Callable[[], Backend]]] = {"cpu": GlooBackend}
"""By torch's device type. Making a backend may import a device's library, so none is made before a
device of its kind asks for it."""


def backend_for(device_type: str) -> Backend | None:
    """What carries bytes between devices of this torch type; None when nothing here does yet."""
    make = BACKENDS.get(device_type)
    return None if make is None else make()
