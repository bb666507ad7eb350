"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    name: str
    check: Callable[[bytes], bool]
    """True: accepted, False: refused. Any exception is a finding."""
    seeds: tuple[bytes, ...]
    head: int
    """Bytes before the JSON part of an input."""
