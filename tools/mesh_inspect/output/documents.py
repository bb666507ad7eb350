"""Documents for programs: JSON, JSON Lines, YAML, CSV, names.

Everything may have come over the network. JSON and YAML are ASCII: a terminal obeys characters that
they would let through. In the others these are escaped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import orjson

from mesh_inspect.output.text import escape

_NOT_ASCII: Final = re.compile(r"[^\n -~]")
_DELETE: Final = "\x7f"

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""With what a spreadsheet's formula may begin."""

_PLAIN_KEY: Final = re.compile(r"[a-z]\w+", re.ASCII)
_WORDS_OF_YAML: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null"})

Value = Mapping[str, object]


def ascii_json(document: object, *, indent: bool = True) -> str:
    """JSON of a document, on one line without `indent`."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    if text.isascii() and _DELETE not in text:
        return text  # orjson has escaped all other characters that a terminal obeys.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def ascii_yaml(document: dict[str, object]) -> str:
    """YAML of a document, in blocks. Each text is in double quotes, so none of them is anything
    else than a text. PyYAML takes more than a second for the entries of 2,000 members."""
    lines: list[str] = []
    _block(document, "", "", lines)
    return "\n".join(lines)


def ascii_csv(entries: Sequence[Value]) -> str:
    """A table with a heading. Keys of objects are joined by a dot, entries of lists by a semicolon.

    Texts are escaped as in tables. One that a spreadsheet would take for a formula gets an
    apostrophe in front, as spreadsheets do it themselves.
    """
    rows = [dict(_flat(entry)) for entry in entries]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)), "")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().replace("\r\n", "\n").rstrip("\n")


def _block(value: object, indent: str, lead: str, out: list[str]) -> None:
    """Write a list or an object that is not empty. Its first line begins with `lead` instead of the
    indent."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = key if _is_plain(key) else _text(key)
            if isinstance(item, dict | list | tuple) and item:
                out.append(f"{lead}{name}:")
                _block(item, indent + "  ", indent + "  ", out)
            else:
                out.append(f"{lead}{name}: {_flow(item)}")
            lead = indent
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, dict | list | tuple) and item:
                _block(item, indent + "  ", f"{lead}- ", out)
            else:
                out.append(f"{lead}- {_flow(item)}")
            lead = indent


@lru_cache
def _is_plain(key: str) -> bool:
    """Whether a key needs no quotes."""
    return _PLAIN_KEY.fullmatch(key) is not None and key not in _WORDS_OF_YAML


def _flow(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    text = str(value) if type(value) is int else orjson.dumps(value).decode()
    if isinstance(value, float) and "e" in text:
        # Readers of YAML 1.1 want a dot and a sign.
        number, _, exponent = text.partition("e")
        return f"{number}{'' if '.' in number else '.0'}e{int(exponent):+}"
    return text


@lru_cache(maxsize=4096)
def _text(text: str) -> str:
    """A text in double quotes. Most texts of thousands of members are the same few."""
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isascii() and quoted.isprintable():
        return quoted
    # JSON writes a character beyond 16 bits as two, which YAML takes for two.
    return "".join(char if " " <= char <= "~" else _code(ord(char)) for char in quoted)


def _code(point: int) -> str:
    return f"\\U{point:08x}" if point > 0xFFFF else f"\\u{point:04x}"


def _flat(entry: Value, prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in entry.items():
        name = prefix + key
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _cell(value)


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        items = (
            ascii_json(item, indent=False) if isinstance(item, Mapping) else str(item)
            for item in value
        )
        value = ";".join(items)
    if isinstance(value, str):
        text = escape(value)
        return f"'{text}" if text.startswith(_FORMULA) else text
    return "" if value is None else orjson.dumps(value).decode()
