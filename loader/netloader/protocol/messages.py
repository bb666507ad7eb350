"""The grammar of a session's control connection, between a replica and a source.

    replica                           source
    Hello ------------------------->          identity, manifest hash, generation it expects
          <------------------ Accept          session, rendezvous, chunks it has [+ digests]
          <------------------ Refuse          why, and when to ask again [+ its manifest]
    (both open the process group)
    Want -------------------------->          chunk ids, in the order they shall be sent
    Have <------------------------>           more chunk ids, from a source that is still loading
                                              or deals; a replica tells the latter what it has.
                                              To its own host a source also says what it is getting
    Done -------------------------->          everything arrived and is verified
    Bye <------------------------->           this side gives the session up, and why; a replica
                                              names the chunk whose digest was wrong

A chunk travels over the group as `ceil(nbytes / message_bytes)` messages, in order and all tagged
with the chunk's id, cut as `data.split(message_bytes)` cuts it. `Accept` says the size: a source
with a rate limit sends small messages, so that none is a burst.

A message is one frame of JSON, or two where brackets name an attachment. ZeroMQ carries messages:
DEALER at the replica, ROUTER at the source. Weights never travel here.

Everything is validated on the way in. Unknown fields are ignored, so that a later version can add
some; a change that old peers would misread raises `VERSION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from netloader import plain
from netloader.errors import ManifestError, ProtocolError
from netloader.identity.identity import MAX_FIELDS
from netloader.plain import Plain

VERSION: Final = 3
"""2: packed chunks have gaps, so that their tensors are aligned. 3: attributes may be containers
(`plain.py`), without which a replica of version 2 would be filled in part."""

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_ATTACHMENT_BYTES: Final = 64 * 1024 * 1024
"""The manifest of a model with 100,000 tensors is about 20 MB."""

# Lists below stop at their first bad element (FailFast). Otherwise pydantic would collect an error
# for each of a million elements, which takes a minute and gigabytes.

MAX_CHUNKS: Final = 1 << 20

MAX_IDS: Final = 65_536
"""Chunks that one message can name."""

MAX_TEXT: Final = plain.MAX_TEXT
MAX_NAME: Final = 512
"""Characters of a mapping's keys: module paths, names of fields."""

MIN_BULK_MESSAGE_BYTES, MAX_BULK_MESSAGE_BYTES = 64 << 10, 1 << 30
"""Bytes of one message over the group. The maximum is the default: no chunk is larger, so each
travels whole."""

_MAX_QUOTE: Final = 200
"""How many characters of a message's fault an error may quote."""

_Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
_Name = Annotated[str, StringConstraints(max_length=MAX_NAME)]
_Integer = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_SessionId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_ChunkId = Annotated[int, Field(ge=0, lt=MAX_CHUNKS)]
_ChunkIds = Annotated[tuple[_ChunkId, ...], Field(max_length=MAX_IDS), FailFast()]
_Range = Annotated[tuple[int, int], FailFast()]
_Ranges = Annotated[tuple[_Range, ...], Field(max_length=MAX_IDS), FailFast()]
_Generation = Annotated[int, Field(ge=0, lt=1 << 64)]


def _read_attributes(values: object, info: ValidationInfo) -> dict[str, Plain]:
    """Attributes from JSON as `plain.encode` writes them, or as they are within a process."""
    try:
        if info.mode == "json":
            values = plain.decode(values)
        elif isinstance(values, dict):
            values = {str(path): plain.copied(value, str(path)) for path, value in values.items()}
            plain.check(values)
    except ManifestError as error:
        raise ValueError(str(error)) from None
    if not isinstance(values, dict) or any(len(path) > MAX_NAME for path in values):
        raise ValueError(f"attributes are a mapping whose keys have up to {MAX_NAME} characters")
    return values


if TYPE_CHECKING:
    _Attributes = dict[str, Plain]
else:
    # pydantic cannot read an alias that refers to itself.
    _Attributes = Annotated[
        dict, PlainValidator(_read_attributes), PlainSerializer(plain.encode, return_type=dict)
    ]


class _Message(BaseModel):
    # Attributes may be infinite; JSON would spell that as null, which is another value.
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")


class Hello(_Message):
    """A replica asks for a session."""

    type: Literal["hello"] = "hello"
    version: int = VERSION
    replica: _Text
    """Name of the replica, for the source's log."""
    generation: _Generation | None
    """The generation the mesh showed; None from a static `SOURCE` list, which knows none."""
    identity: _Digest
    fields: Annotated[dict[_Name, _Integer | _Text], Field(max_length=MAX_FIELDS)]
    names: Annotated[dict[_Name, _Text], Field(max_length=8)] = {}
    """Names of the replica's model: labels, not part of the identity."""
    content: Annotated[dict[_Name, _Text], Field(max_length=16)]
    manifest: _Digest
    chunk_bytes: Annotated[int, Field(gt=0)]
    backend: _Text
    """What shall carry the bytes: one of those that the source offers."""
    digests: Annotated[
        tuple[_Name, ...], Field(max_length=8, exclude_if=lambda kinds: kinds == ("xxh3",))
    ] = ("xxh3",)
    """Kinds of digests that the replica can verify. Older replicas know this one only."""
    fabric: Annotated[_Text, Field(exclude_if=lambda label: not label)] = ""
    """Label of the network that the replica's transfers use; empty: none."""
    serves: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    """Whether the replica serves what it has while it loads. Then `Accept.have` may leave out
    chunks, which `Have` gives and takes back."""
    have: Annotated[_Ranges, Field(exclude_if=lambda ranges: not ranges)] = ()
    """Chunks that such a replica has already, as half-open ranges of ids."""
    near: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    """Whether the replica is on the source's host. Then it wants to hear, by `Have.coming`, what
    the source is getting, so that these bytes cross the host's link once."""


class Accept(_Message):
    """A source opens a session. The attachment holds 16 bytes of digest per chunk, by chunk id."""

    type: Literal["accept"] = "accept"
    version: int = VERSION
    session: _SessionId
    generation: _Generation
    identity: _Digest
    manifest: _Digest
    attributes: _Attributes
    """Attributes other than tensors that `load_weights` set, by dotted path."""
    host: _Text
    port: Annotated[int, Field(gt=0, le=65_535)]
    computed: Annotated[dict[_Name, _Digest], Field(max_length=plain.MAX_COMPUTED)] = {}
    """Persistent buffers that no checkpoint filled: a replica must have computed the same."""
    content: Annotated[dict[_Name, _Text], Field(max_length=16)] = {}
    """Evidence of the served content, which becomes the replica's own once it has all of it."""
    secret: _Text
    """Authenticates the entries of both ranks at the rendezvous."""
    have: _Ranges
    """Chunks that can be asked for now, as half-open ranges of ids."""
    deals: Annotated[bool, Field(exclude_if=lambda on: not on)] = False
    """Whether the source hands each chunk to one replica first. It then wants to hear, by `Have`,
    which of the chunks on offer the replica has got elsewhere."""
    message_bytes: Annotated[int, Field(ge=MIN_BULK_MESSAGE_BYTES, le=MAX_BULK_MESSAGE_BYTES)] = (
        MAX_BULK_MESSAGE_BYTES
    )
    """Bytes of each message of a chunk, except for the last one, which may be shorter."""
    digest: Annotated[_Name, Field(exclude_if=lambda kind: kind == "xxh3")] = "xxh3"
    """Kind of the attached digests: one of those in the hello."""


class Refuse(_Message):
    """A source declines. With `code` manifest the attachment is the source's manifest.

    `keys`: the cluster keys have changed since the connection was opened; a new one will do.
    """

    type: Literal["refuse"] = "refuse"
    version: int = VERSION
    code: Literal[
        "version", "identity", "manifest", "generation", "backend", "busy", "not-ready", "keys"
    ]
    reason: _Text
    loaded: Annotated[_Attributes, Field(exclude_if=lambda values: not values)] = {}
    """What `load_weights` set besides tensors, for a replica that only asks whether a source has
    processed weights: its post-processing has to meet the same."""
    retry_after_s: Annotated[float, Field(ge=0, le=86_400)] | None = None


class Want(_Message):
    """A replica asks for chunks, in the order in which it will receive them."""

    type: Literal["want"] = "want"
    session: _SessionId
    chunks: _ChunkIds


class Have(_Message):
    """More chunks can be asked for; or, from a replica to a source that deals, the replica has
    chunks on offer already."""

    type: Literal["have"] = "have"
    session: _SessionId
    chunks: _ChunkIds
    gone: Annotated[_ChunkIds, Field(exclude_if=lambda ids: not ids)] = ()
    """Chunks that are no longer on offer, or do not come to the source after all. Those that were
    asked of the source are sent all the same."""
    coming: Annotated[_ChunkIds, Field(exclude_if=lambda ids: not ids)] = ()
    """Chunks that a source, which still loads, has asked other hosts for."""


class Done(_Message):
    """The replica needs nothing more."""

    type: Literal["done"] = "done"
    session: _SessionId


class Bye(_Message):
    """One side gives the session up."""

    type: Literal["bye"] = "bye"
    session: _SessionId
    reason: _Text
    bad_chunk: _ChunkId | None = None
    """A chunk that reached the replica with another digest than the source promised. The source
    then finds out whether its weights have changed."""


Message = Hello | Accept | Refuse | Want | Have | Done | Bye

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def encode(message: Message, attachment: bytes | None = None) -> list[bytes]:
    """The frames of a message."""
    frames = [message.model_dump_json().encode()]
    return frames if attachment is None else [*frames, attachment]


def decode(frames: Sequence[bytes]) -> tuple[Message, bytes]:
    """Read a message and its attachment (empty when there is none).

    Raises `ProtocolError` for anything that is not in the grammar.
    """
    if not 1 <= len(frames) <= 2:
        raise ProtocolError(f"a message has 1 or 2 frames, not {len(frames)}")
    if len(frames[0]) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message of {len(frames[0])} bytes is over {MAX_MESSAGE_BYTES}")
    attachment = frames[1] if len(frames) == 2 else b""
    if len(attachment) > MAX_ATTACHMENT_BYTES:
        raise ProtocolError(f"an attachment of {len(attachment)} bytes")
    try:
        return _ADAPTER.validate_json(frames[0]), attachment
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProtocolError(
            f"not a control message: at {where!r:.{_MAX_QUOTE}}: {first['msg']!r:.{_MAX_QUOTE}}"
        ) from None
