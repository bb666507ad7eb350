"""The lines that docs/troubleshooting.md quotes are lines of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

HOLE = "\0"
"""What a text of the code has where its values come."""


def quoted(page: str) -> list[str]:
    """What the first column of each table quotes."""
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    first = [re.split(r"(?<!\\)\|", row)[1] for row in rows]
    return [line for cell in first for line in re.findall(r"`([^`]+)`", cell)]


def texts(source: str) -> Iterator[str]:
    """Texts in a file's code, with a hole for each value; docstrings are none."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    apart = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            apart |= {id(part) for part in node.values}
            parts = (part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
            yield "".join(map(str, parts))
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in apart:
            yield re.sub(r"%[.*\d]*[sdrgf]", HOLE, node.value)


def is_said(line: str, said: str) -> bool:
    """Whether a text of the code can become this line: `...` stands for any of it."""
    parts = [part.strip() for part in line.split("...") if part.strip(" ;,.:()")]
    pattern = ".*".join(re.escape(part) for part in parts)
    return re.search(pattern, said, re.DOTALL) is not None


@pytest.fixture(scope="module")
def code() -> list[str]:
    files = [path for root in ("loader", "mesh", "tools") for path in (ROOT / root).rglob("*.py")]
    return [text for file in files for text in texts(file.read_text())]


@pytest.mark.parametrize("line", sorted(set(quoted(PAGE))))
def test_a_line_that_is_quoted_is_in_the_code(line: str, code: list[str]) -> None:
    if line.startswith("NETLOADER_"):
        return
    assert any(is_said(line, text) for text in code)


def test_the_page_quotes_many_lines() -> None:
    assert len(quoted(PAGE)) > 40


def test_values_are_holes_in_any_form() -> None:
    source = '"""not this"""\nlog("port %d of %s", 1, 2)\nraise E(f"a {b!r} c")\n'
    assert {*texts(source)} == {f"port {HOLE} of {HOLE}", f"a {HOLE} c"}


def test_a_line_that_is_nowhere_would_be_noticed() -> None:
    assert is_said("port ... of ...", f"port {HOLE} of {HOLE}")
    assert is_said("... is taken: ...", f"mesh: {HOLE} is taken: this process")
    assert not is_said("port ... is taken", f"port {HOLE} of {HOLE}")
    assert not is_said("it was never said", "something else")
