"""Writes a fan-out to a recording, in which the live map shows how the weights spread.

The replicas publish what real ones would: how far they have come, from whom, and how fast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh_inspect.recording.lines import RecordingHead
from mesh_inspect.recording.track import Track
from mesh_inspect.recording.writer import RecordingFile
from netloader import __version__
from netloader.discovery.advert import MAX_FEEDS, Feed, Holding, encode
from netloader.identity.identity import Evidence, Identity, Names, known
from netmesh.core.member import Member
from netmesh.core.records import Generation, MemberId, Status, new_generation
from netsim.dataplane.member import SimulatedMember
from netsim.dataplane.options import FanoutOptions
from netsim.world import EPOCH_MS

MOST_BYTES: Final = 10**10
LOOKS: Final = 100
"""In the time that one link needs for all the weights."""
WINDOW: Final = 8
"""Looks over which a rate is taken: chunks come whole, and there are about three for each look."""
_PORT: Final = 17946
_ENDPOINT: Final = 31000

_IDENTITY: Final = Identity(
    Names("", "simulated", "simulated"),
    architecture="Simulated",
    dtype="bfloat16",
    quantization="",
    built={"tp_size": 1, "tp_rank": 0, "pp_size": 1, "pp_rank": 0},
    content={Evidence.SAMPLE: "0" * 32},
)


@dataclass(slots=True)
class _Cast:
    """A member in the film."""

    id: MemberId
    endpoint: str
    generation: Generation
    past: deque[tuple[int, dict[str, int]]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Bytes in place, and by the name of each source, at the latest looks."""
    version: int = 0
    last: Holding | None = None


class FanoutFilm:
    """The recording of one run. To be closed."""

    def __init__(self, path: Path, options: FanoutOptions) -> None:
        """Raises `RecordingError` if the file is there, and OSError."""
        at = EPOCH_MS / 1000
        head = RecordingHead(mesh="sim", at=at, program=f"netsim {__version__}")
        self.every_s = options.nbytes / options.rate / LOOKS
        self._file = RecordingFile(path, head, MOST_BYTES, force=False)
        self._track = Track(at)
        self._nbytes = options.nbytes
        self._sizes = options.chunks
        self._hosts: dict[int, int] = {}
        """Number of each host, by the identity of its links."""
        self._workers: dict[str, int] = {}
        """How many members each host has, by its address."""
        self._cast: dict[str, _Cast] = {}

    def close(self, now: float) -> None:
        """End the file at that virtual time, in seconds."""
        self._file.write(self._track.end(EPOCH_MS / 1000 + now))
        self._file.close()

    def look(self, now: float, members: Iterable[SimulatedMember]) -> None:
        """Write what is so at that virtual time."""
        at = EPOCH_MS / 1000 + now
        there = list(members)
        for one in there:
            if one.name not in self._cast:
                self._enter(one)
        shown = [self._member(one, at) for one in there]
        for name in self._cast.keys() - {one.name for one in there}:
            del self._cast[name]
        self._file.write(self._track.seen(at, shown))

    def _enter(self, member: SimulatedMember) -> None:
        number = self._hosts.setdefault(id(member.host), len(self._hosts))
        host = f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
        generation = new_generation(EPOCH_MS + int(member.started * 1000), len(self._cast))
        # One that replaces another has its name with a prime, and its address.
        before = self._cast.get(member.name.removesuffix("'"))
        if before is not None:
            self._cast[member.name] = _Cast(before.id, before.endpoint, generation)
            return
        place = self._workers[host] = self._workers.get(host, -1) + 1
        self._cast[member.name] = _Cast(
            MemberId(f"{host}:{_PORT + place}"), f"{host}:{_ENDPOINT + place}", generation
        )

    def _member(self, member: SimulatedMember, at: float) -> Member:
        cast = self._cast[member.name]
        holding = self._holding(member, cast)
        if holding != cast.last:
            cast.version, cast.last = cast.version + 1, holding
        return Member(
            cast.id, cast.generation, 0, Status.ALIVE, cast.version, encode([holding]), 0.0
        )

    def _holding(self, member: SimulatedMember, cast: _Cast) -> Holding:
        held = sum(self._sizes[chunk] for chunk in member.has)
        brought = dict(member.brought)
        old, before = cast.past[0] if cast.past else (0, {})
        span_s = self.every_s * max(1, len(cast.past))
        cast.past.append((held, brought))
        values: dict[str, object] = {
            "role": _IDENTITY.role,
            "identity": _IDENTITY.digest,
            "names": _IDENTITY.names.travelling(),
            "fields": _IDENTITY.fields(),
            "content": known(_IDENTITY.content),
            "endpoint": cast.endpoint,
            "backend": "gloo",
            "transports": ("gloo",),
            "serving": len(member.uploads),
        }
        if member.complete:
            origin = "peers" if brought else "storage"
            return Holding.fitted(
                values | {"state": "ready", "nbytes": self._nbytes, "origin": origin}
            )
        feeds = [
            Feed(
                endpoint=self._cast[name].endpoint,
                generation=self._cast[name].generation,
                nbytes=brought.get(name, 0),
                rate=_rate(brought.get(name, 0) - before.get(name, 0), span_s),
            )
            for name in member.sources
            if name in self._cast
        ]
        feeds.sort(key=lambda feed: -feed.rate)
        return Holding.fitted(
            values
            | {
                "state": "loading",
                "total": self._nbytes,
                "held": held,
                "rate": _rate(held - old, span_s),
                "sharing": held > 0,
                "pulling": len(feeds),
                "feeds": tuple(feeds[:MAX_FEEDS]),
                "storage": "reading" if member.reads else "",
            }
        )


def _rate(nbytes: int, span_s: float) -> int:
    return int(max(0, nbytes) / span_s)
