"""Which weights are these? The answer decides whether two workers may share.

An identity consists of named parts that must all be equal (`fields`), evidence of the checkpoint's
content (`content`), and names. Names are labels: they decide only if operators set them on both
sides. The parts travel with their digest, so a refusal can name the mismatch in words
(`tp_size: mine 2, theirs 4`).

Evidence of content comes in several kinds. The strongest kind that both sides know decides alone
(`STRENGTH`):

    full    every byte of every tensor
    blobs   the content hashes by which the Hub's cache names its files, checked by a sample
    sample  some bytes of every tensor
    commit  a repository's commit: counts only where bytes cannot be compared; a source claims it
            only after checking its files against the hashes that name them

Nothing in common means no match.

Pure: no files, no vLLM. `evidence.py` reads checkpoints, `identify.py` reads vLLM's configuration,
`parallel.py` the built model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Literal

import orjson

from netloader.errors import IdentityError

Role = Literal["target", "draft"]
Layout = Literal["checkpoint", "runtime"]
Fields = Mapping[str, str | int]
"""Named parts of an identity, flat, as they travel."""

MAX_FIELDS: Final = 512
"""Maximum number of parts in one identity. A large multi-modal config has about 200."""

_DIGEST_BYTES = 16
_MAX_TEXT = 512
_MAX_WORDS = 8
"""Differing parts named in a message; the rest are only counted."""

SHARDS: Final = "shards"
"""The part that covers the shards held by all built layers (`parallel.py`)."""

LAYOUT: Final = "layout"
"""The part that names the state in which tensors are shared."""

CONFIG: Final = "config: "
"""Prefix of parts that come from the model's config. Their values are JSON."""


class Evidence(StrEnum):
    """Kinds of evidence about a checkpoint's content."""

    BLOBS = "blobs"
    """Digest over the content hashes that name the blobs in the Hub's cache, and over a bounded
    sample of what they hold."""
    SAMPLE = "sample"
    """Digest over the name, type, shape and some bytes of every tensor."""
    FULL = "full"
    """Digest over every byte of every tensor."""
    COMMIT = "commit"
    """`org/name@commit`: a repository and its resolved commit."""


STRENGTH: Final = (Evidence.FULL, Evidence.BLOBS, Evidence.SAMPLE, Evidence.COMMIT)
"""Strongest first."""


@dataclass(frozen=True, slots=True)
class Names:
    """What a worker's model is called. All of these are labels."""

    model: str = ""
    """`MODEL`, if the operator set it: workers that differ in it never share."""
    known: str = ""
    """The name that people know: `org/name` for a model in a Hub cache, else the path."""
    given: str = ""
    """The `--model` argument as vLLM has it."""

    @property
    def shown(self) -> str:
        """The name to show where there is room for only one."""
        return self.model or self.known or self.given

    def travelling(self) -> dict[str, str]:
        """The names as they travel beside the fields."""
        return {"model": self.model, "known": self.known, "given": self.given}


class LazyContent(Mapping[Evidence, str]):
    """Evidence that is made on request and then remembered.

    Iteration lists the available kinds without making any. If making one fails, that kind is
    missing from then on, and `problems` says why.
    """

    def __init__(
        self,
        makers: Mapping[Evidence, Callable[[], str | None]],
        known: Mapping[Evidence, str] | None = None,
    ) -> None:
        """`makers` return None or raise `IdentityError` when there is no such evidence."""
        self._makers = dict(makers)
        self._known: dict[Evidence, str] = dict(known or {})
        self.problems: list[str] = []

    @property
    def known(self) -> Mapping[Evidence, str]:
        """The evidence known so far."""
        return dict(self._known)

    def add(self, more: Mapping[Evidence, str]) -> None:
        """Add evidence that was learnt another way. Evidence known already stays."""
        self._known = {**more, **self._known}

    def make_all(self) -> Mapping[Evidence, str]:
        """Make all kinds that can be made, and return the evidence."""
        for kind in list(self):
            self.get(kind)
        return self.known

    def __getitem__(self, kind: Evidence) -> str:
        if kind not in self._known:
            made = self._make(kind)
            if made is None:
                raise KeyError(kind)
            self._known[kind] = made
        return self._known[kind]

    def _make(self, kind: Evidence) -> str | None:
        maker = self._makers.pop(kind, None)
        if maker is None:
            return None
        try:
            return maker()
        except IdentityError as error:
            self.problems.append(str(error))
            return None

    def __iter__(self) -> Iterator[Evidence]:
        return (kind for kind in STRENGTH if kind in self._known or kind in self._makers)

    def __contains__(self, kind: object) -> bool:
        return kind in self._known or kind in self._makers

    def __len__(self) -> int:
        return sum(1 for _ in self)


def known(content: Mapping[Evidence, str]) -> dict[str, str]:
    """The part of `content` that is known without reading anything, as it travels."""
    made = content.known if isinstance(content, LazyContent) else content
    return {str(kind): text for kind, text in made.items()}


def content_id(known: Mapping[Evidence, str] | Mapping[str, str]) -> str:
    """The id that operators pass on to name a content (`CONTENT`); empty when there is none.

    Takes the strongest kind that any copy of the checkpoint has: not every host has a Hub cache.
    """
    texts: dict[str, str] = {str(kind): text for kind, text in known.items()}
    for kind in (Evidence.FULL, Evidence.SAMPLE, Evidence.BLOBS, Evidence.COMMIT):
        if kind in texts:
            return f"{kind}:{texts[kind]}"
    return ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that two workers must agree on before one may use the other's bytes."""

    names: Names
    architecture: str
    """Model class(es) that the checkpoint's config names."""
    dtype: str
    quantization: str
    """The method; empty when not quantised."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Dotted key to JSON: the model's config as vLLM uses it, with overrides and quantisation,
    without keys that no tensor depends on (`model_config.py`)."""
    built: Fields = field(default_factory=dict)
    """The built model's place in the parallel layout and the code it is built from (`parallel.py`).
    Before the model is built, the place that vLLM's groups give."""
    role: Role = "target"
    layout: Layout = "checkpoint"
    content: Mapping[Evidence, str] = field(default_factory=dict)
    """Evidence of the checkpoint's content; not part of `digest`, matched by `mismatch`."""

    @property
    def model(self) -> str:
        """The model's name, for people."""
        return self.names.shown

    def fields(self) -> dict[str, str | int]:
        """The parts that must be equal, flat, as they travel."""
        flat: dict[str, str | int] = {
            "architecture": self.architecture,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "role": self.role,
            LAYOUT: self.layout,
        }
        flat |= {CONFIG + key: text for key, text in self.config.items()}
        return flat | dict(self.built)

    def processed(self, parts: Fields) -> Identity:
        """The same weights in the `runtime` layout. `parts`: what decides how post-processing lays
        them out."""
        return replace(self, layout="runtime", built={**self.built, **parts})

    @classmethod
    def of_fields(
        cls, fields: Fields, names: Mapping[str, str], content: Mapping[str, str]
    ) -> Identity:
        """The identity that travels as these `fields()`, whatever parts a later version has."""
        head = ("architecture", "dtype", "quantization", "role", "layout")
        rest = {name: value for name, value in fields.items() if name not in head}
        return cls(
            Names(*(names.get(kind, "") for kind in ("model", "known", "given"))),
            architecture=str(fields.get("architecture", "")),
            dtype=str(fields.get("dtype", "")),
            quantization=str(fields.get("quantization", "")),
            built=rest,
            role="draft" if fields.get("role") == "draft" else "target",
            layout="runtime" if fields.get("layout") == "runtime" else "checkpoint",
            content={kind: content[kind] for kind in STRENGTH if kind in content},
        )

    @property
    def digest(self) -> str:
        """32 hex digits over the canonical JSON of `fields()`."""
        return fields_digest(self.fields())


def fields_digest(values: Fields) -> str:
    """Digest of an identity's fields: BLAKE2b-128 of their JSON with sorted keys, in hex."""
    text = orjson.dumps(dict(values), option=orjson.OPT_SORT_KEYS)
    return blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


def mismatch(
    mine: Identity,
    fields: Fields,
    content: Mapping[str, str],
    names: Mapping[str, str] | None = None,
) -> str | None:
    """Why another worker's weights are not the ones I need, or None when they are.

    `fields`, `content` and `names` are the other side's, as received over the network. May read the
    checkpoint, if `mine.content` is a `LazyContent` and everything else is equal.
    """
    other = other_model(mine.names, names or {})
    if other is not None:
        return other
    differing = differences(mine.fields(), fields)
    if differing:
        return listed(differing)
    return content_mismatch(mine.content, content)


def differences(mine: Fields, theirs: Fields) -> list[str]:
    """Every part in which two identities differ, in words, in the order in which parts are named.

    A later version may tell weights apart by a part unknown to this version: such a part counts.
    Between two layouts only parts that both have are told, because each has parts of its own.
    """
    if mine.get(LAYOUT) != theirs.get(LAYOUT):
        mine = {name: value for name, value in mine.items() if name in theirs}
        theirs = {name: value for name, value in theirs.items() if name in mine}
    differing = [
        name
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name) or (name in mine) != (name in theirs)
    ]
    # A digest over all layers. The layers' own parts usually name the difference already.
    told = [name for name in differing if name != SHARDS]
    if differing and not told:
        return [
            "shards: the built layers hold other parts of the checkpoint (digests "
            f"{_value(SHARDS, mine.get(SHARDS))}, {_value(SHARDS, theirs.get(SHARDS))})"
        ]
    return [
        f"{_name(name)}: mine {_value(name, mine.get(name))}, "
        f"theirs {_value(name, theirs.get(name))}"
        for name in told
    ]


def content_mismatch(mine: Mapping[Evidence, str], theirs: Mapping[str, str]) -> str | None:
    """Why their checkpoint's content does not match mine, or None when it does.

    The strongest kind of evidence that both know decides alone: where bytes can be compared,
    commits say nothing, equal or not.
    """
    for kind in STRENGTH:
        if kind not in theirs or kind not in mine:
            continue
        value = mine.get(kind)
        if value is None:
            continue  # Making this evidence failed.
        if value == theirs[kind]:
            return None
        return f"checkpoint content ({kind}): mine {value}, theirs {_shorten(theirs[kind])}"
    return (
        f"checkpoint content cannot be compared: I know {_kinds(mine)}, they know {_kinds(theirs)}"
    )


def other_model(mine: Names, theirs: Mapping[str, str]) -> str | None:
    """Words for a conflict: operators on both sides named the model, but differently."""
    there = theirs.get("model", "")
    if not mine.model or not there or mine.model == there:
        return None
    return f"MODEL: mine {mine.model!r}, theirs {_shorten(there)}"


def names_differ(mine: Names, theirs: Mapping[str, str]) -> str | None:
    """Upstream's check for a source from a static list: the source must serve a model of this name.

    None when either side has no name, or when any name of one equals any name of the other.
    """
    here = {name for name in (mine.model, mine.known, mine.given) if name}
    there = {name for key in ("model", "known", "given") if (name := theirs.get(key, ""))}
    if not here or not there or here & there:
        return None
    return (
        f"model: mine {mine.shown!r}, theirs {_shorten(theirs.get('model') or theirs.get('known'))}"
        ": a static SOURCE has to serve the model of the same name, so set MODEL alike on both"
    )


def listed(differing: list[str]) -> str:
    """Differences as one text of bounded length."""
    more = len(differing) - _MAX_WORDS
    return "; ".join(differing[:_MAX_WORDS]) + (f"; and {more} more" if more > 0 else "")


def _name(name: str) -> str:
    """A part's name as an operator reads it. It may come from the network."""
    text = repr(name)[1:-1]
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _value(name: str, value: str | int | None) -> str:
    if value is None:
        return "nothing"
    # Values from a config are JSON already, so their strings have quotes.
    if name.startswith(CONFIG) and isinstance(value, str):
        return _shorten(value)[1:-1] if len(value) <= _MAX_TEXT else _shorten(value)[1:]
    return _shorten(value)


def _kinds(content: Mapping[str, str] | Mapping[Evidence, str]) -> str:
    return ", ".join(sorted(str(kind) for kind in content))[:_MAX_TEXT] or "nothing"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
