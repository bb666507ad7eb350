"""docs/reference/protocol.md is normative: what can be compared with the code is compared."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from netmesh.core.messages import Message
from netmesh.core.settings import ProtocolSettings
from netmesh.core.wire import HEADER, MAX_BODY_BYTES, PROTOCOL_VERSION

DOCUMENT = (Path(__file__).parents[3] / "docs" / "reference" / "protocol.md").read_text()


def test_every_constant_stands_in_the_document_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([0-9.]+) \| .{10,}\|$", DOCUMENT, re.MULTILINE))
    defaults = {f.name: str(f.default) for f in fields(ProtocolSettings)}
    assert rows == defaults


def test_every_message_stands_in_the_document_with_its_number() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]+) \|", DOCUMENT, re.MULTILINE)
    kinds = {str(m.kind): m.__name__.upper() for m in get_args(Message)}
    assert dict(rows) == kinds


def test_header_limits_and_version_agree() -> None:
    assert f"Header, {HEADER.size} bytes" in DOCUMENT
    assert f"at most {MAX_BODY_BYTES // 1024} KiB" in DOCUMENT
    assert DOCUMENT.startswith(f"# The mesh protocol, version {PROTOCOL_VERSION}\n")
