"""What a worker publishes about the weights it holds, and how others read it.

The mesh carries an advert as an opaque JSON object. Ours lists holdings, one for each model in the
process: the target and, with speculative decoding, a draft. Readers are lenient about unknown
fields and strict about known ones: a malformed holding is left out, not guessed at. One text over
its limit would therefore cost readers the whole holding. So a worker makes its holdings with
`fitted`, which cuts to the limits and checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from netloader import __version__
from netloader.identity.identity import MAX_FIELDS, Role
from netmesh import JsonObject

SCHEMA: Final = 2
"""Since 2, a model's names are not part of its identity."""
MAX_HOLDINGS: Final = 8
MAX_ACCUSED: Final = 8
MAX_TEXT: Final = 1024
"""Characters of any text in a holding."""
MAX_NAMES: Final = 8
MAX_TRANSPORTS: Final = 8
MAX_CONTENT: Final = 16
"""Kinds of evidence: more than exist now, for later versions."""
MAX_FEEDS: Final = 16
"""Sources that are named: 100 bytes each, in an advert of at most 8 KiB."""
MAX_AWAITS: Final = 8

_MAX_RELEASE: Final = 64
"""Characters of a version."""

_OLDEST: Final = "gloo"

State = Literal["loading", "ready", "unavailable"]

_Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
_Count = Annotated[int, Field(ge=0, lt=1 << 64)]
_Transports = Annotated[
    tuple[_Text, ...], Field(max_length=MAX_TRANSPORTS, exclude_if=lambda names: not names)
]


class Accused(BaseModel):
    """A process that was caught serving wrong bytes."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: _Text
    generation: Annotated[int, Field(ge=0, lt=1 << 64)]


class Feed(BaseModel):
    """A source that a worker pulls from while it loads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: _Text
    generation: Annotated[int, Field(ge=0, lt=1 << 64)]
    """With the endpoint: one process, as in `Accused`."""
    nbytes: _Count = 0
    """Bytes that this process has brought so far."""
    rate: _Count = 0
    """Bytes per second of late."""


def for_older_members(transports: Sequence[str]) -> str:
    """The transport that is shown to members which know of one only: Gloo is all they have."""
    return _OLDEST if _OLDEST in transports else transports[0]


class Holding(BaseModel):
    """One model in a worker, as the mesh sees it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Role
    state: State
    """`ready`: may be asked for these weights. `unavailable`: holds them but cannot serve them."""
    reason: _Text = ""
    """Why the holding is unavailable."""
    identity: _Text
    """Digest of `fields`."""
    names: Annotated[dict[str, _Text], Field(max_length=MAX_NAMES)] = {}
    """`Names.travelling()`: the model's names."""
    fields: Annotated[dict[str, int | _Text], Field(max_length=MAX_FIELDS)]
    """`Identity.fields()`."""
    content: Annotated[dict[str, _Text], Field(max_length=MAX_CONTENT)]
    """Evidence of the checkpoint's content, by kind, as far as it is known."""
    endpoint: _Text
    """`host:port` of the source's listener; empty when there is none."""
    backend: _Text
    """The one of `transports` that members look for which know no other (`for_older_members`);
    empty when nothing carries the bytes."""
    transports: _Transports = ()
    """All that can carry the bytes, best first: hccl, nccl, gloo. Empty: the member did not say."""
    nbytes: Annotated[int, Field(ge=0)] = 0
    """Bytes of weights held."""
    origin: Literal["", "storage", "peers"] = ""
    """Where the weights came from; empty while loading."""
    carried: _Transports = ()
    """What carried the weights that came from peers."""
    serving: Annotated[int, Field(ge=0)] = 0
    """Number of replicas being served now."""
    pulling: Annotated[int, Field(ge=0)] = 0
    """Number of sources being pulled from now."""
    chunk_bytes: Annotated[int, Field(ge=0)] = 0
    """Size of the holding's chunks: a replica must cut alike. 0: the member did not say."""
    fabric: Annotated[_Text, Field(exclude_if=lambda label: not label)] = ""
    """Label of the network that the worker's transfers use; empty: none."""
    total: Annotated[int, Field(ge=0, exclude_if=lambda nbytes: not nbytes)] = 0
    """Bytes of weights when all are in place; 0 until the model is built."""
    held: Annotated[int, Field(ge=0, exclude_if=lambda nbytes: not nbytes)] = 0
    """Bytes of weights that are in place while the worker loads, told now and then."""
    rate: Annotated[_Count, Field(exclude_if=lambda rate: not rate)] = 0
    """Bytes per second by which `held` has grown of late."""
    feeds: Annotated[
        tuple[Feed, ...], Field(max_length=MAX_FEEDS, exclude_if=lambda feeds: not feeds)
    ] = ()
    """The sources pulled from now, fastest first: not more than these are named."""
    awaits: Annotated[
        tuple[_Text, ...], Field(max_length=MAX_AWAITS, exclude_if=lambda names: not names)
    ] = ()
    """Ids of the members whose reading of storage the worker waits for."""
    sharing: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    """Whether these can be asked for already."""
    storage: Annotated[
        Literal["", "able", "reading"], Field(exclude_if=lambda state: not state)
    ] = ""
    """While no peer has a loading worker's weights: whether the worker could read storage, or
    does."""
    accuses: Annotated[tuple[Accused, ...], Field(max_length=MAX_ACCUSED)] = ()
    """Sources that sent this worker other bytes than they had promised, latest last."""

    @classmethod
    def fitted(cls, values: Mapping[str, object]) -> Self:
        """A holding of these fields, within the limits by which readers judge it.

        Texts for people are cut. So are the values of `fields`: a cut value matches nobody, because
        everybody compares it with values of their own that were not cut. An address, or evidence of
        content, means nothing once it is cut, and is left out. Of `accuses` the latest stay, and of
        other lists the first.

        Raises `pydantic.ValidationError` for values that no cut can mend: the caller's fault.
        """
        fit = {name: _FIT[name](value) if name in _FIT else value for name, value in values.items()}
        return cls.model_validate(fit)

    def changed(self, **changes: object) -> Self:
        """A copy with other values, also within the limits."""
        return self.fitted(
            {name: getattr(self, name) for name in type(self).model_fields} | changes
        )

    @property
    def serves(self) -> bool:
        """Whether the worker may be asked for weights: for all of them, or for those that it has so
        far."""
        return self.state == "ready" or (self.state == "loading" and self.sharing)

    @property
    def offered(self) -> tuple[str, ...]:
        """All that can carry the bytes, best first."""
        return self.transports or ((self.backend,) if self.backend else ())

    @property
    def model(self) -> str:
        """The model's name: the operator's, else the name that people know."""
        return next(
            (name for key in ("model", "known", "given") if (name := self.names.get(key, ""))), ""
        )


_CUT: Final = "..."
"""Ends a text that was cut."""


def _cut(value: object) -> object:
    """A text cut to its limit. A value that is not a text is left to the validation."""
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[: MAX_TEXT - len(_CUT)] + _CUT
    return value


def _fits(value: object) -> bool:
    return not isinstance(value, str) or len(value) <= MAX_TEXT


def _address(value: object) -> object:
    return value if _fits(value) else ""


def _texts(most: int, values: object) -> object:
    """The first entries, each cut."""
    if not isinstance(values, Mapping):
        return values
    return {name: _cut(value) for name, value in islice(values.items(), most)}


def _evidence(values: object) -> object:
    """The entries that fit."""
    if not isinstance(values, Mapping):
        return values
    whole = ((kind, value) for kind, value in values.items() if _fits(value))
    return dict(islice(whole, MAX_CONTENT))


def _names(most: int, values: object) -> object:
    """The first names that fit."""
    if not isinstance(values, tuple):
        return values
    return tuple(filter(_fits, values))[:most]


def _known(values: tuple[object, ...]) -> tuple[object, ...]:
    """The processes whose address fits: no other can be in the mesh."""
    return tuple(
        one for one in values if not isinstance(one, Mapping) or _fits(one.get("endpoint"))
    )


def _latest(values: object) -> object:
    """The latest accused."""
    return _known(values)[-MAX_ACCUSED:] if isinstance(values, tuple) else values


def _fastest(values: object) -> object:
    """The first feeds."""
    return _known(values)[:MAX_FEEDS] if isinstance(values, tuple) else values


_FIT: Final[Mapping[str, Callable[[object], object]]] = {
    "reason": _cut,
    "identity": _cut,
    "backend": _cut,
    "names": partial(_texts, MAX_NAMES),
    "fields": partial(_texts, MAX_FIELDS),
    "content": _evidence,
    "endpoint": _address,
    "transports": partial(_names, MAX_TRANSPORTS),
    "carried": partial(_names, MAX_TRANSPORTS),
    "feeds": _fastest,
    "awaits": partial(_names, MAX_AWAITS),
    "accuses": _latest,
}
"""How each bounded field is made to fit."""


def encode(holdings: Sequence[Holding]) -> JsonObject:
    """The advert of a worker with these holdings."""
    return {
        "schema": SCHEMA,
        "release": __version__,
        "holdings": [holding.model_dump(mode="json") for holding in holdings],
    }


def release_of(advert: JsonObject) -> str:
    """The version of this package that a member runs; empty where it does not say."""
    release = advert.get("release")
    return release[:_MAX_RELEASE] if isinstance(release, str) else ""


def decode(advert: JsonObject) -> tuple[Holding, ...]:
    """The holdings in another member's advert; empty when the advert is not a loader's."""
    listed = advert.get("holdings")
    if not isinstance(listed, list):
        return ()
    found = []
    for entry in listed[:MAX_HOLDINGS]:
        try:
            found.append(Holding.model_validate(entry))
        except ValidationError:
            # From a version that describes holdings differently: it says nothing to us.
            continue
    return tuple(found)
