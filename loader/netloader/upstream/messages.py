"""Upstream's messages: one JSON object each, over plain TCP. Pure.

    replica  JOIN       which weights it wants, and the port where it will meet the source
    source   JOIN_ACK   the replica's own address, as the source sees it; the transfer follows
             JOIN_NACK  a reason; the replica then asks its next source, or reads storage

Releases 0.18 to 0.23 read a whole message with one `recv` of 1,024 bytes, so answers stay below
that. 0.18 sends no `group_name` and means `netloader`. The main branch after 0.26 also sends
`int8_cache`. With `no` it expects another transfer, in the layout after post-processing, which no
release has.

WHO and WHO_ACK are ours. Upstream's server refuses WHO like any message that it does not know, so
the answer tells the two apart, and its server goes on. ZeroMQ's greeting instead would end that
server's only thread, which decodes what it reads as UTF-8 without catching the error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import orjson

from netloader.errors import ProtocolError

MAX_QUESTION: Final = 4096
"""Bytes of a question that a source reads. A JOIN has some 150 bytes and the model's path."""

MAX_ANSWER: Final = 65_536
"""Bytes of an answer that a replica reads. Only the main branch sends more than 1,024, in a layout
that is not supported."""

_ONE_READ: Final = 1024
"""Bytes that upstream's replica reads of an answer."""

_MAX_REASON: Final = 600
"""Characters of a refusal's reason. Quoting may add bytes, and all must fit `_ONE_READ`."""

_MAX_TEXT: Final = 2048
"""Characters of a text in a question."""

_MAX_COUNT: Final = 1 << 20
"""Largest rank or size that a question may name."""

_GROUP: Final = "netloader"
"""Name of the group, where a JOIN has none."""

PROGRAM: Final = "netloader-mesh"


@dataclass(frozen=True, slots=True)
class UpstreamJoin:
    """An upstream replica wants to be served."""

    device_id: int
    """Its global rank."""
    model_path: str
    """Its `--model` argument: the only name that upstream compares."""
    tp: int
    pp: int
    port: int
    """The TCP port on which it will meet the source."""
    group_name: str = _GROUP
    """Becomes part of the keys in the store: `netloader`, or `netloader_draft` for a draft."""
    int8_cache: str | None = None
    """The replica's `INT8_CACHE`; None before the main branch."""


@dataclass(frozen=True, slots=True)
class Who:
    """Asks what listens here."""


Question = UpstreamJoin | Who


@dataclass(frozen=True, slots=True)
class JoinAccepted:
    """The transfer begins."""

    name: str
    """`host:port` of the replica's end of this connection, as the source sees it."""
    processed: bool = False
    """Whether the source will send the layout after post-processing."""


@dataclass(frozen=True, slots=True)
class JoinRefused:
    """No transfer."""

    reason: str


@dataclass(frozen=True, slots=True)
class MeshHere:
    """A source of the mesh listens here."""


UpstreamAnswer = JoinAccepted | JoinRefused | MeshHere


def is_whole(data: bytes) -> bool:
    """Whether these bytes are a whole JSON value, and not only its beginning."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def encode_question(question: Question) -> bytes:
    """The bytes to send to a source."""
    match question:
        case Who():
            return orjson.dumps({"label": "WHO", "content": {"program": PROGRAM}})
        case UpstreamJoin():
            content: dict[str, object] = {
                "device_id": question.device_id,
                "model_path": question.model_path,
                "tp": question.tp,
                "pp": question.pp,
                "port": question.port,
                "group_name": question.group_name,
            }
            if question.int8_cache is not None:
                content["int8_cache"] = question.int8_cache
            return orjson.dumps({"label": "JOIN", "content": content})


def decode_question(data: bytes) -> Question:
    """Read what a stranger sent. Raises `ProtocolError` with the reason to tell it."""
    label, content = _labelled(data, MAX_QUESTION)
    if label == "WHO":
        return Who()
    if label != "JOIN":
        raise ProtocolError(f"there is no message {label!r:.40}")
    if not isinstance(content, dict):
        raise ProtocolError("JOIN has no content")
    int8_cache = content.get("int8_cache")
    return UpstreamJoin(
        device_id=_number(content, "device_id", 0, _MAX_COUNT),
        model_path=_text(content, "model_path"),
        tp=_number(content, "tp", 1, _MAX_COUNT),
        pp=_number(content, "pp", 1, _MAX_COUNT),
        port=_number(content, "port", 1, 65_535),
        group_name=_text(content, "group_name") if "group_name" in content else _GROUP,
        int8_cache=None if int8_cache is None else _text(content, "int8_cache"),
    )


def encode_answer(answer: UpstreamAnswer) -> bytes:
    """The bytes to send to a replica. They fit upstream's only read."""
    match answer:
        case JoinAccepted():
            return _fitting("JOIN_ACK", {"name": answer.name})
        case JoinRefused():
            # Bytes outside ASCII become escapes of up to 12 bytes elsewhere, never here.
            plain = answer.reason.encode("ascii", "replace").decode()
            return _fitting("JOIN_NACK", plain[:_MAX_REASON])
        case MeshHere():
            return _fitting("WHO_ACK", {"program": PROGRAM})


def decode_answer(data: bytes) -> UpstreamAnswer:
    """Read what a server said. Raises `ProtocolError`."""
    label, content = _labelled(data, MAX_ANSWER)
    match label, content:
        case "JOIN_ACK", {"name": str() as name, **rest}:
            return JoinAccepted(name, rest.get("transfer_shapes") is not None)
        case "JOIN_NACK", str() as reason:
            return JoinRefused(reason[:_MAX_TEXT])
        case "WHO_ACK", _:
            return MeshHere()
    raise ProtocolError(f"there is no such answer: {data!r:.120}")


def _fitting(label: Literal["JOIN_ACK", "JOIN_NACK", "WHO_ACK"], content: object) -> bytes:
    data = orjson.dumps({"label": label, "content": content})
    if len(data) > _ONE_READ and isinstance(content, str):
        # Quotes and control characters take more bytes than characters.
        return _fitting(label, content[: len(content) // 2])
    return data


def _labelled(data: bytes, limit: int) -> tuple[object, object]:
    if len(data) > limit:
        raise ProtocolError(f"the message has more than {limit} bytes")
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("the message is not a JSON object")
    return message.get("label"), message.get("content")


def _number(content: dict[str, object], name: str, least: int, most: int) -> int:
    """Upstream takes digits in a string for a number, too."""
    value = content.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise ProtocolError(f"{name} must be in {least}..{most}, not {value!r:.40}")
    return value


def _text(content: dict[str, object], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        raise ProtocolError(f"{name} must be a text, not {value!r:.40}")
    return value
