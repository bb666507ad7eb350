"""What a worker publishes about the weights it holds, and how others read it.

The mesh carries an advert as an opaque JSON object. Ours lists holdings, one for each model in the
process: the target and, with speculative decoding, a draft. Reading is lenient about what it does
not know and strict about what it does: a holding that is malformed is left out, not guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from netloader.identity.identity import MAX_FIELDS, Role
from netmesh import JsonObject

SCHEMA: Final = 2
"""2: what a model is called is no part of its identity."""
MAX_HOLDINGS: Final = 8
MAX_ACCUSED: Final = 8

State = Literal["loading", "ready", "unavailable"]

_Text = Annotated[str, StringConstraints(max_length=1024)]


class Accused(BaseModel):
    """A process that was found to serve wrong bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: _Text
    generation: Annotated[int, Field(ge=0, lt=1 << 64)]


class Holding(BaseModel):
    """One model in a worker, as the mesh sees it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Role
    state: State
    """`ready`: may be asked for these weights. `unavailable`: holds them, cannot serve them."""
    reason: _Text = ""
    """Why it is unavailable."""
    identity: _Text
    """Digest of `fields`."""
    names: Annotated[dict[str, _Text], Field(max_length=8)] = {}
    """`Names.travelling()`: what the model is called."""
    fields: Annotated[dict[str, int | _Text], Field(max_length=MAX_FIELDS)]
    """`Identity.fields()`."""
    content: Annotated[dict[str, _Text], Field(max_length=16)]
    """Evidence of the checkpoint's content, by kind, as far as it is known."""
    endpoint: _Text
    """`host:port` of the source's listener; empty when there is none."""
    backend: _Text
    """What carries the bytes: gloo, nccl, hccl; empty when nothing does."""
    nbytes: Annotated[int, Field(ge=0)] = 0
    """Bytes of weights held."""
    origin: Literal["", "storage", "peers"] = ""
    """Where they came from; empty while loading."""
    serving: Annotated[int, Field(ge=0)] = 0
    """Replicas being served now."""
    pulling: Annotated[int, Field(ge=0)] = 0
    """Sources being pulled from now."""
    chunk_bytes: Annotated[int, Field(ge=0)] = 0
    """Size of its chunks: a replica must cut alike. 0: it did not say."""
    accuses: Annotated[tuple[Accused, ...], Field(max_length=MAX_ACCUSED)] = ()
    """Sources that sent this worker other bytes than they had promised, latest last."""

    @property
    def model(self) -> str:
        """What to call the model: what the operator called it, else the name that people know."""
        return next(
            (name for key in ("model", "known", "given") if (name := self.names.get(key, ""))), ""
        )


def encode(holdings: Sequence[Holding]) -> JsonObject:
    """The advert of a worker with these holdings."""
    return {
        "schema": SCHEMA,
        "holdings": [holding.model_dump(mode="json") for holding in holdings],
    }


def decode(advert: JsonObject) -> tuple[Holding, ...]:
    """The holdings of somebody else's advert; empty when it is none of ours."""
    listed = advert.get("holdings")
    if not isinstance(listed, list):
        return ()
    found = []
    for entry in listed[:MAX_HOLDINGS]:
        try:
            found.append(Holding.model_validate(entry))
        except ValidationError:
            # From a version that describes holdings differently: for us it holds nothing.
            continue
    return tuple(found)
