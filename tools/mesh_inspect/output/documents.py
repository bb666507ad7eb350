"""Documents for programs. ASCII only: a terminal obeys characters that JSON would let through."""

from __future__ import annotations

import json
import re
from typing import Final

import orjson

_NOT_ASCII: Final = re.compile(r"[^\n -~]")
_DELETE: Final = "\x7f"


def ascii_json(document: object, *, indent: bool = True) -> str:
    """JSON of a document, on one line without `indent`."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    if text.isascii() and _DELETE not in text:
        return text  # orjson has escaped all other characters that a terminal obeys.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)
