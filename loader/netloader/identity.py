"""Which weights are these? The one question that decides whether two workers may share.

Never matched on a name alone. An identity is a set of fields that must all be equal, and what is
known of the checkpoint's content, where at least one kind of evidence must be known to both sides
and equal, and none may differ. The fields travel with their digest, so that a mismatch can be
explained (`tp_size: mine 2, theirs 4`) instead of merely refused.

Pure: no files, no vLLM. `content.py` reads checkpoints, `describe.py` reads vLLM's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from hashlib import blake2b
from typing import Literal

import orjson

Role = Literal["target", "draft"]
Layout = Literal["checkpoint", "runtime"]

_DIGEST_BYTES = 16
_MAX_TEXT = 512


class Evidence(StrEnum):
    """Kinds of knowledge about a checkpoint's content, each strong enough to match on alone."""

    BLOBS = "blobs"
    """Digest over the content hashes that the Hugging Face cache names its blobs by."""
    SAMPLE = "sample"
    """Digest over each file's size, header and a few KiB of every tensor."""
    FULL = "full"
    """Digest over every byte."""
    COMMIT = "commit"
    """Repository id and resolved commit."""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Where one worker stands in the parallel layout of its model. Ranks count from 0.

    Data-parallel replicas hold equal weights unless experts are sharded over them; then `ep_size`
    is tp x dp x pcp and `ep_rank` tells them apart, so dp itself is no field here.
    """

    tp_size: int = 1
    tp_rank: int = 0
    pp_size: int = 1
    pp_rank: int = 0
    ep_size: int = 1
    ep_rank: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything that two workers must agree on before one may use the other's bytes."""

    model: str
    """Name, `MODEL` or the `--model` argument."""
    architecture: str
    """Model class(es) of the checkpoint's config."""
    dtype: str
    quantization: str
    """Method, empty when not quantised."""
    quantization_config: str
    """Digest of the quantisation config, empty when there is none."""
    config: str
    """Digest of the model's config as vLLM uses it, overrides included: buffers are computed from
    it, rotary tables among them."""
    parallel: Parallel
    vllm_version: str
    role: Role = "target"
    layout: Layout = "checkpoint"
    placement: str = ""
    """What else decides which experts land on this rank (placement strategy, redundant experts)."""
    content: Mapping[Evidence, str] = field(default_factory=dict)
    """Evidence of the checkpoint's content; not part of `digest`, matched by `mismatch`."""

    def fields(self) -> dict[str, str | int]:
        """The fields that must be equal, flat, as they travel."""
        flat: dict[str, str | int] = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("parallel", "content")
        }
        return flat | asdict(self.parallel)

    @property
    def digest(self) -> str:
        """32 hex digits over the canonical JSON of `fields()`."""
        return fields_digest(self.fields())


def fields_digest(values: Mapping[str, str | int]) -> str:
    """Digest of an identity's fields: BLAKE2b-128 of their JSON with sorted keys, in hex."""
    text = orjson.dumps(dict(values), option=orjson.OPT_SORT_KEYS)
    return blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


def mismatch(
    mine: Identity, fields: Mapping[str, str | int], content: Mapping[str, str]
) -> str | None:
    """Why another worker's weights are not the ones I need, or None when they are.

    `fields` and `content` are the other side's, as they came over the network.
    """
    ours = mine.fields()
    differing = [
        f"{name}: mine {value!r}, theirs {_shorten(fields.get(name))}"
        for name, value in ours.items()
        if fields.get(name) != value
    ]
    # A later version may tell weights apart by something that this one does not know.
    differing += [
        f"{_shorten(name)}: unknown to me, theirs {_shorten(value)}"
        for name, value in fields.items()
        if name not in ours
    ]
    if differing:
        return "; ".join(differing)
    shared = [kind for kind in mine.content if kind in content]
    for kind in shared:
        if mine.content[kind] != content[kind]:
            return (
                f"checkpoint content ({kind}): mine {mine.content[kind]}, "
                f"theirs {_shorten(content[kind])}"
            )
    if not shared:
        return (
            f"checkpoint content cannot be compared: I know {_kinds(mine.content)}, "
            f"they know {_kinds(content)}"
        )
    return None


def _kinds(content: Mapping[str, str] | Mapping[Evidence, str]) -> str:
    return ", ".join(sorted(map(str, content)))[:_MAX_TEXT] or "nothing"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
