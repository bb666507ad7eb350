"""Whether a replica gets the weights that a source holds: everything that hello says has to fit.

Pure. Whether there is room for it is another question (`source.py`).
"""

from __future__ import annotations

from netloader import control
from netloader.identity import fields_digest, mismatch, names_differ
from netloader.session import Offer


def refusal(
    hello: control.Hello, offer: Offer | None, generation: int, unready: str
) -> control.Refuse | None:
    """Why a replica is not served, or None. `unready` is what to say when nothing is offered."""
    if hello.version != control.VERSION:
        return control.Refuse(
            code="version",
            reason=f"mine is version {control.VERSION}, yours {hello.version}",
        )
    if hello.generation is not None and hello.generation != generation:
        return control.Refuse(
            code="generation",
            reason=f"I am generation {generation}, not {hello.generation}: restarted",
        )
    if offer is None:
        return control.Refuse(code="not-ready", reason=unready)
    if fields_digest(hello.fields) != hello.identity:
        return control.Refuse(code="identity", reason="your fields have another digest")
    different = mismatch(offer.identity, hello.fields, hello.content, hello.names)
    if different is None and hello.generation is None:
        different = names_differ(offer.identity.names, hello.names)
    if different is not None:
        return control.Refuse(code="identity", reason=different[: control.MAX_TEXT])
    if hello.backend != offer.backend.name:
        return control.Refuse(
            code="backend",
            reason=f"mine {offer.backend.name}, theirs {hello.backend}"[: control.MAX_TEXT],
        )
    if hello.manifest != offer.manifest_hash:
        return control.Refuse(code="manifest", reason="our tensors differ")
    return None
