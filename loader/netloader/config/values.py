"""Values of single settings, as operators write them."""

from __future__ import annotations

from typing import Annotated

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

MIN_PORT, MAX_PORT = 1024, 65_535


def lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def not_bool(value: object) -> object:
    """pydantic takes true for 1, and nobody who writes true for a number means 1."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def check_port(endpoint: str) -> str:
    port = int(endpoint.rpartition(":")[2])
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"there is no port {port}")
    return endpoint


def from_json(value: object) -> object:
    """An environment variable holds text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


Endpoint = Annotated[
    str,
    StringConstraints(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):[0-9]{1,5}$"),
    AfterValidator(check_port),
]
Integer = Annotated[int, BeforeValidator(not_bool)]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def names(value: object) -> object:
    """Names from the environment: with commas between them, or JSON."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return from_json(value)
    return [name.strip() for name in value.split(",")]


class RankSources(BaseModel):
    """The static sources of one rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_id: int = Field(ge=0)
    """Global rank of the worker that these sources are for."""
    sources: tuple[Endpoint, ...]
    """`ip:port` of the sources' listeners, tried in this order."""
