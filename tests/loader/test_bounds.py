from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from netloader.bounds import allowed, limits


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Settings(BaseModel):
    flag: bool = True
    count: int = Field(default=1, ge=1, le=64)
    wait_s: Annotated[float, Field(gt=0, le=3600)] = 3.0
    maybe_wait_s: Annotated[float, Field(ge=0.5)] | None = None
    rate_limit: int | None = Field(default=None, ge=5)
    step_bytes: int = Field(default=4, ge=4, le=8, multiple_of=4)
    most: int = Field(default=4, le=8)
    any_number: int = 0
    way: Literal["up", "down"] = "up"
    colour: Colour | None = None
    name: str = ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flag", "true or false"),
        ("count", "an integer, 1..64"),
        ("wait_s", "seconds, more than 0, at most 3600"),
        ("maybe_wait_s", "seconds, at least 0.5"),
        ("rate_limit", "bytes per second, an integer, at least 5"),
        ("step_bytes", "bytes, a multiple of 4 in 4..8"),
        ("most", "an integer, at most 8"),
        ("any_number", "an integer"),
        ("way", "up or down"),
        ("colour", "one of red, green, blue"),
        ("name", ""),
    ],
)
def test_what_a_field_takes_is_told_in_words(name: str, words: str) -> None:
    assert allowed(name, Settings.model_fields[name]) == words


def test_a_field_without_bounds_has_none() -> None:
    assert [name for name, field in Settings.model_fields.items() if not limits(field)] == [
        "flag",
        "any_number",
        "way",
        "colour",
        "name",
    ]
