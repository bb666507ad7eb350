"""One function of CUDA's runtime that torch does not offer, from the library that torch has loaded.

vLLM captures its graphs in the mode `global`, in which some calls of any other thread spoil the
capture: to allocate memory, to ask for an event. vLLM would not start. Our threads take no part in
a graph, so theirs is the mode `relaxed`, as NCCL's own.

Nobody has run this against a real CUDA yet.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

_RELAXED: Final = 2
"""`cudaStreamCaptureModeRelaxed`."""

_EXCHANGE: Final = "cudaThreadExchangeStreamCaptureMode"
"""Takes the address of a mode, makes that the calling thread's, and leaves the former one there."""

_ADVICE: Final = (
    "if the model captures graphs while it serves, that may fail; "
    "start it with --enforce-eager then"
)

Exchange = Callable[[object], int]


def copy_beside_captures() -> None:
    """Let the calling thread use the device while another captures a graph. Never raises."""
    exchange = _loaded_exchange()
    if exchange is not None:
        relax(exchange)


def relax(exchange: Exchange) -> None:
    """Give the calling thread the mode `relaxed`. Says in the log when CUDA refuses."""
    code = exchange(ctypes.pointer(ctypes.c_int(_RELAXED)))
    if code:
        _log.warning("%s reports %d: %s", _EXCHANGE, code, _ADVICE)


def find(maps: Iterable[str], load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> Exchange | str:
    """The function of the runtime that a process has loaded, or why there is none. `maps` are the
    lines of its `/proc/PID/maps`."""
    paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "/libcudart" in line}
    if not paths:
        return "no libcudart is loaded"
    path = min(paths)
    try:
        found: Exchange = getattr(load(path), _EXCHANGE)
    except (OSError, AttributeError) as error:
        return str(error)
    return found


@cache
def _loaded_exchange() -> Exchange | None:
    found = find(Path("/proc/self/maps").read_text().splitlines())
    if isinstance(found, str):
        _log.warning("%s cannot be called (%s): %s", _EXCHANGE, found, _ADVICE)
        return None
    return found
