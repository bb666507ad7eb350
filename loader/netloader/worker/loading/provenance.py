"""What is known of the weights that a model was filled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netloader.checkpoint.wanted import Files
from netloader.identity.identity import LazyContent
from netloader.plain import Plain


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a source tells its replicas besides the bytes."""

    content: LazyContent
    """Evidence of the checkpoint's content, as far as it has been made."""
    attributes: Mapping[str, Plain]
    """What `load_weights` had set besides tensors, by dotted path."""
    computed: Mapping[str, str]
    """Digests of the persistent buffers that no checkpoint filled."""
    files: Files | None = None
    """What was read; None where it came from peers."""
    commit: str | None = None
    """The commit that these files are said to be."""
