"""What happens at a source, told to whoever publishes or counts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceObserver:
    """Callbacks that are told what happens. The source's thread calls all but `changed`."""

    sessions: Callable[[int], object] = lambda count: None
    """Told the number of replicas being served, whenever it changes."""
    changed: Callable[[str], object] = lambda reason: None
    """Told the reason, by a thread of its own, once the source has withdrawn because its weights
    are no longer those that it promised."""
    refused: Callable[[str], object] = lambda code: None
    """Told the code of each refusal."""
    ended: Callable[[str, str, int, float], object] = lambda how, transport, nbytes, held_s: None
    """Told how a session ended, by which transport, bytes sent, and the seconds for which the rate
    limit held it."""
