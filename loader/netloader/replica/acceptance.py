"""The replica's first message to a source, the promise in the source's acceptance, and what the
sources of a pull agree on. Pure.

A source makes its promise before it sends a byte: a digest for each chunk, and everything that no
digest covers. The pull follows the first source's promise; the others must promise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from netloader.errors import ManifestError, ProtocolError, Refused, TransferError
from netloader.identity.identity import known
from netloader.model import attributes
from netloader.plain import Plain
from netloader.protocol import messages
from netloader.protocol.ranges import chunks_in, ranges
from netloader.replica.request import Request
from netloader.weights import manifest
from netloader.weights.capture import DigestKind
from netloader.weights.digests import DIGEST_BYTES, KINDS
from netloader.weights.manifest import Manifest

_MAX_QUOTE = 1024
"""How many characters of a peer's words an error may quote."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a source promises to hold."""

    digests: tuple[bytes, ...]
    """By chunk id."""
    digest_kind: DigestKind
    """How they are computed."""
    attributes: Mapping[str, Plain]
    """Attributes other than tensors that the source's `load_weights` set."""
    content: Mapping[str, str] = field(default_factory=dict)
    """Evidence of the checkpoint's content."""
    computed: Mapping[str, str] = field(default_factory=dict)
    """Digests of persistent buffers that no checkpoint filled."""


def hello(
    request: Request,
    generation: int | None,
    mine: Manifest,
    transport: str,
    have: Collection[int] = (),
    *,
    near: bool = False,
) -> messages.Hello:
    """The first message to a source whose process should have this `generation`; None accepts any.
    `transport` shall carry the bytes; the replica has some chunks already.
    `near`: the source is on this host."""
    identity = request.identity
    return messages.Hello(
        replica=request.replica,
        generation=generation,
        identity=identity.digest,
        fields=identity.fields(),
        names=identity.names.travelling(),
        content=known(identity.content),
        manifest=mine.hash,
        chunk_bytes=mine.chunk_bytes,
        backend=transport,
        digests=KINDS,
        fabric=request.fabric,
        serves=bool(request.serves_at),
        have=ranges(have) if request.serves_at else (),
        near=near and bool(request.serves_at),
    )


def accepted(
    endpoint: str, mine: Manifest, answer: messages.Message, attachment: bytes
) -> messages.Accept:
    """The acceptance in an answer to hello.

    Raises `Refused` for a refusal, with the first difference between the manifests where they are
    the reason, and `TransferError` for any other answer.
    """
    match answer:
        case messages.Accept():
            return answer
        case messages.Refuse():
            reason = answer.reason
            if answer.code == "manifest" and attachment:
                reason += f" ({_difference(mine, attachment)})"[:_MAX_QUOTE]
            raise Refused(endpoint, reason, answer.retry_after_s, answer.code)
        case _:
            raise TransferError(endpoint, f"answered hello with {answer.type}")


def _difference(mine: Manifest, theirs: bytes) -> str:
    try:
        return manifest.difference(mine, manifest.decode(theirs)) or "no difference found"
    except ManifestError as error:
        return str(error)


def stay_in_reach(endpoint: str, accept: messages.Accept, reaches: Callable[[str], bool]) -> None:
    """Check where the source at `endpoint` lets its bytes be fetched.

    Raises `TransferError` where this worker may connect to the source and not to that address: a
    source could otherwise make it knock anywhere. An operator may list a source beyond its reach,
    and is believed where that one leads.
    """
    host = f"[{accept.host}]" if ":" in accept.host else accept.host
    where = f"{host}:{accept.port}"
    if reaches(endpoint) and not reaches(where):
        raise TransferError(
            endpoint,
            f"sends this worker to {where[:_MAX_QUOTE]!r}, where it may not connect: without a key "
            "to loopback only, else to no loopback address and nothing outside MESH_NETWORKS",
        )


def read(
    endpoint: str, hello: messages.Hello, chunks: int, accept: messages.Accept, attachment: bytes
) -> Promise:
    """The promise in an answer to `hello`, for a manifest with the given number of chunks.

    Raises `TransferError` for an answer that does not fit the question.
    """
    generation = accept.generation if hello.generation is None else hello.generation
    for what, mine, theirs in (
        ("protocol version", hello.version, accept.version),
        ("identity", hello.identity, accept.identity),
        ("manifest", hello.manifest, accept.manifest),
        ("generation", generation, accept.generation),
        ("bytes of digests", chunks * DIGEST_BYTES, len(attachment)),
    ):
        if mine != theirs:
            raise TransferError(
                endpoint, f"accepted with another {what}: mine {mine}, theirs {theirs}"
            )
    try:
        chunks_in(accept.have, chunks)
    except ProtocolError as error:
        raise TransferError(endpoint, str(error)) from None
    digests = tuple(
        attachment[at : at + DIGEST_BYTES] for at in range(0, len(attachment), DIGEST_BYTES)
    )
    kind = next((kind for kind in KINDS if kind == accept.digest), None)
    if kind is None:
        raise TransferError(endpoint, f"promises digests of an unknown kind, {accept.digest!r}")
    return Promise(
        digests, kind, dict(accept.attributes), dict(accept.content), dict(accept.computed)
    )


class Agreement:
    """The promise that a pull follows, and the sources that stand by it."""

    def __init__(self) -> None:
        self.promise: Promise | None = None
        """None until a source has promised anything, and again once no source stands by the
        promise."""
        self._endpoints: set[str] = set()

    def join(self, endpoint: str, promise: Promise) -> str | None:
        """Note that a source makes `promise`. Returns how it contradicts earlier sources, if it
        does."""
        if self.promise is None:
            self.promise = promise
        if promise.digest_kind != self.promise.digest_kind:
            return (
                f"promises digests of another kind, {promise.digest_kind}, than an earlier source, "
                f"{self.promise.digest_kind}: they cannot be compared"
            )
        if promise.digests != self.promise.digests:
            return "promises other digests than an earlier source"
        # No digest covers these: only the agreement of the sources can vouch for them.
        different = attributes.difference(self.promise.attributes, promise.attributes)
        if different is not None:
            return f"has other attributes than an earlier source ({different})"
        self._endpoints.add(endpoint)
        return None

    def break_off(self, endpoint: str) -> bool:
        """Note that this source broke its promise. Returns whether the promise is void: no other
        source stands by it."""
        if endpoint not in self._endpoints:
            return False
        self._endpoints.remove(endpoint)
        if self._endpoints:
            return False
        self.promise = None
        return True
