"""The bounds of the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_PORT: Final = 8765
"""Or the next that is free, when the operator names none."""


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Each bound with its unit and reason."""

    static: Path = Path(__file__).parent / "static"
    """The folder of the page."""
    period_s: float = 1.0
    """Between two looks. Each costs the mesh one answer, however many browsers watch."""
    grace_s: float = 10.0
    """Looks go on for so long after the last question, so that a page that is loaded again finds
    the mesh as it is."""
    readers: int = 32
    """Streams of events at a time: a person has a few, and each holds a connection."""
    backlog: int = 64
    """Events that a reader may be behind before it gets a new document: about a minute."""
    backlog_bytes: int = 8 << 20
    """Bytes of these: a new model in a mesh of 2,000 changes 2 MB in one event."""
    keep_alive_s: float = 15.0
    """Of silence on a stream, after which a comment shows both ends that it is there."""
    happenings: int = 500
    """Lines of the time line that are kept."""
    connections: int = 128
    """Open at a time; a browser has up to six, and a stream of events for each page."""
    header_s: float = 10.0
    """From a connection's start to the end of a request's headers, and from there to its body."""
    stuck_s: float = 60.0
    """A peer that takes nothing of an answer for so long loses its connection."""
    header_bytes: int = 16 << 10
    """Of one request's line and headers; a browser sends 1 kB."""
    body_bytes: int = 4 << 10
    """Of a request's body: the only one is three numbers."""
