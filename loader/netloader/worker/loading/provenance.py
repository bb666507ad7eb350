"""What is known about the weights that filled a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netloader.checkpoint.wanted import Files
from netloader.identity.identity import Evidence, Identity, LazyContent, known
from netloader.plain import Plain


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a source tells its replicas in addition to the bytes."""

    content: LazyContent
    """Evidence of the checkpoint's content, as far as it has been computed."""
    attributes: Mapping[str, Plain]
    """Attributes other than tensors that `load_weights` set, by dotted path."""
    computed: Mapping[str, str]
    """Digests of the persistent buffers that no checkpoint filled."""
    files: Files | None = None
    """The files that were read; None where the weights came from peers."""
    commit: str | None = None
    """The commit that these files are said to come from."""


def learnt(identity: Identity, theirs: Mapping[str, str]) -> LazyContent:
    """What a replica knows about the content it has pulled: what it read itself, and what the
    source says. The replica's own commit is only what it wanted: only a source can have checked
    it."""
    own = {
        Evidence(kind): value
        for kind, value in known(identity.content).items()
        if kind != Evidence.COMMIT
    }
    said = {Evidence(kind): value for kind, value in theirs.items() if kind in set(Evidence)}
    return LazyContent({}, said | own)
