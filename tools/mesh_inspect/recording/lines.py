"""The lines of a recording: a head, then steps. Pure.

A file is read by whoever gets it attached to a bug report, so each field is checked. Fields that
are not known are left out: a later version may have more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Final, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from netmesh import Generation, Member, MemberId, Status

FORMAT: Final = "netloader-recording"
VERSION: Final = 1

MAX_LINE_BYTES: Final = 32 << 20
"""A keyframe of 4,000 members with the largest adverts, or of 20,000 with usual ones."""

MAX_ADVERT_BYTES: Final = 64 << 10
"""Eight times what a mesh lets anybody publish."""

MAX_SILENCE: Final = 1024
"""Characters of why nobody answered."""

MAX_TIME_S: Final = 2.0**40
"""Seconds since the epoch: the year 36,812. Keeps arithmetic with times exact."""

_Id = Annotated[str, StringConstraints(min_length=3, max_length=280, pattern=r"^[ -~]+:[0-9]+$")]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]
_Time = Annotated[float, Field(ge=0, le=MAX_TIME_S, allow_inf_nan=False)]
_Text = Annotated[str, StringConstraints(max_length=4096)]

_STATUSES: Final = {status.name.lower(): status for status in Status}


class _RecordedLine(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class RecordedMember(_RecordedLine):
    """A member, as the mesh knew it."""

    id: _Id
    generation: Annotated[int, Field(ge=0, lt=1 << 63)]
    incarnation: _Count
    status: Literal["alive", "stalled", "suspect", "dead", "left"]
    version: _Count
    advert: dict  # type: ignore[type-arg]  # Any JSON object: its fields are not looked at.

    @field_validator("advert")
    @classmethod
    def _can_be_written(cls, advert: dict[str, object]) -> dict[str, object]:
        # What can be read may be nested more deeply than what can be written.
        try:
            nbytes = len(orjson.dumps(advert))
        except TypeError as error:
            raise ValueError(str(error)) from None
        if nbytes > MAX_ADVERT_BYTES:
            raise ValueError(f"{nbytes} bytes, at most {MAX_ADVERT_BYTES} are read")
        return advert

    @classmethod
    def of(cls, member: Member) -> dict[str, object]:
        """The member as a line has it."""
        return {
            "id": member.id,
            "generation": member.generation,
            "incarnation": member.incarnation,
            "status": member.status.name.lower(),
            "version": member.version,
            "advert": member.advert,
        }

    def at(self, now_s: float) -> Member:
        """The member at a time, in seconds since the epoch."""
        generation = Generation(self.generation)
        young = Member(
            MemberId(self.id),
            generation,
            self.incarnation,
            _STATUSES[self.status],
            self.version,
            self.advert,
            0.0,
        )
        return aged(young, now_s)


class RecordingHead(_RecordedLine):
    """The first line."""

    format: Literal["netloader-recording"] = FORMAT
    version: Literal[1] = VERSION
    mesh: _Text
    at: _Time
    program: _Text
    """Version of the program that wrote the file."""


class RecordedStep(_RecordedLine):
    """What a look showed that the one before it had not."""

    at: _Time
    """Seconds since the epoch; never earlier than in the line before."""
    whole: bool = False
    """A keyframe: `members` are all there are."""
    members: list[RecordedMember] = []
    gone: list[_Id] = []
    """Members that are not known any more."""
    silence: _Text | None = None
    """Nobody answered, and why; until the next step, which has none again."""


class LineError(Exception):
    """Why a line is not one of a recording."""


_Any = TypeVar("_Any", bound=_RecordedLine)


def head_of(line: bytes) -> RecordingHead:
    """Read the first line. Raises `LineError`."""
    return _checked(RecordingHead, line)


def step_of(line: bytes) -> RecordedStep:
    """Read one of the others. Raises `LineError`."""
    return _checked(RecordedStep, line)


def _checked(kind: type[_Any], line: bytes) -> _Any:
    try:
        # pydantic's own parser takes half as long again.
        return kind.model_validate(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        raise LineError(f"not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "line"
        raise LineError(f"{where}: {first['msg']}") from None


def head_line(head: RecordingHead) -> bytes:
    """The line of a head."""
    return _written(head.model_dump())


def step_line(
    at: float,
    members: Iterable[Member],
    gone: Iterable[MemberId] = (),
    *,
    whole: bool = False,
    silence: str | None = None,
) -> bytes:
    """The line of a step."""
    step: dict[str, object] = {"at": at}
    if whole:
        step["whole"] = True
    step["members"] = [RecordedMember.of(member) for member in members]
    step["gone"] = list(gone)
    if silence is not None:
        step["silence"] = silence[:MAX_SILENCE]
    return _written(step)


def aged(member: Member, now_s: float) -> Member:
    """The member with its age at a time, in seconds since the epoch."""
    return replace(member, age_s=max(0.0, now_s - (member.generation >> 22) / 1000))


def _written(value: object) -> bytes:
    text = orjson.dumps(value)
    if not text.isascii():
        # A terminal that shows the file obeys characters that JSON would let through.
        text = json.dumps(value, separators=(",", ":")).encode()
    return text + b"\n"
