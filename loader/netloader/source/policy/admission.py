"""Whether a replica gets the weights that a source holds: everything in its hello has to fit.

`sessions.py` decides whether there is room for the replica.
"""

from __future__ import annotations

from netloader.identity.identity import fields_digest, mismatch, names_differ
from netloader.protocol import messages
from netloader.source.offer import Offer, Unready
from netloader.weights import digests


def admit(
    hello: messages.Hello, offer: Offer | Unready, generation: int, fabric: str = ""
) -> Offer | messages.Refuse:
    """The weights that a replica may have, or the refusal. `fabric` is this worker's label."""
    if hello.version != messages.VERSION:
        return messages.Refuse(
            code="version",
            reason=f"mine is version {messages.VERSION}, yours {hello.version}",
        )
    if hello.generation is not None and hello.generation != generation:
        return messages.Refuse(
            code="generation",
            reason=f"I am generation {generation}, not {hello.generation}: restarted",
        )
    if isinstance(offer, Unready):
        return messages.Refuse(
            code="not-ready",
            reason=offer.reason[: messages.MAX_TEXT],
            retry_after_s=offer.retry_after_s,
        )
    if hello.fabric and fabric not in ("", hello.fabric):
        labels = f"FABRIC: mine {fabric}, theirs {hello.fabric}"
        return messages.Refuse(code="identity", reason=labels[: messages.MAX_TEXT])
    if fields_digest(hello.fields) != hello.identity:
        return messages.Refuse(code="identity", reason="your fields have another digest")
    different = mismatch(offer.identity, hello.fields, hello.content, hello.names)
    if different is None and hello.generation is None:
        different = names_differ(offer.identity.names, hello.names)
    if different is not None:
        return messages.Refuse(code="identity", reason=different[: messages.MAX_TEXT])
    if offer.backend(hello.backend) is None:
        mine = ", ".join(offer.transports)
        return messages.Refuse(
            code="backend", reason=f"mine {mine}, theirs {hello.backend}"[: messages.MAX_TEXT]
        )
    kind = digests.kind_of(offer.weights)
    if kind not in hello.digests:
        return messages.Refuse(
            code="version", reason=f"my digests are of kind {kind}, which yours does not compute"
        )
    if hello.manifest != offer.manifest_hash:
        return messages.Refuse(code="manifest", reason="our tensors differ")
    return offer
