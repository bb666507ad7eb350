"""The lines of the log that pages show are lines of the code."""

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


def shown(page: str) -> list[str]:
    """Lines of blocks that are in no language and begin like a line of the log."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [line for language, block in blocks if not language for line in block.splitlines()]
    return [line for line in lines if re.match(r"(mesh: |pulled |ready |loading |waiting )", line)]


def is_whole(line: str, said: str) -> bool:
    """Whether a text of the code, with some words of its own, can become exactly this line."""
    if len(said.replace(HOLE, "")) < 15:
        return False
    return re.fullmatch(".+".join(map(re.escape, said.split(HOLE))), line) is not None


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


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_a_log_that_is_shown_is_as_the_code_writes_it(page: str, code: list[str]) -> None:
    lines = shown((ROOT / page).read_text())
    assert len(lines) > 2
    missing = [line for line in lines if not any(is_whole(line, text) for text in code)]
    assert missing == []


def test_the_page_quotes_many_lines() -> None:
    assert len(quoted(PAGE)) > 40


def test_values_are_holes_in_any_form() -> None:
    source = '"""not this"""\nlog("port %d of %s", 1, 2)\nraise E(f"a {b!r} c")\n'
    assert {*texts(source)} == {f"port {HOLE} of {HOLE}", f"a {HOLE} c"}


def test_a_line_is_shown_as_a_whole() -> None:
    assert shown("```\nready to serve\n```\n```sh\nready\n```\nready\n") == ["ready to serve"]
    said = f"listening on port {HOLE} of {HOLE} ports"
    assert is_whole("listening on port 1 of 2 ports", said)
    assert not is_whole("listening on port 1", said) and not is_whole("anything", HOLE)


def test_a_line_that_is_nowhere_would_be_noticed() -> None:
    assert is_said("port ... of ...", f"port {HOLE} of {HOLE}")
    assert is_said("... is taken: ...", f"mesh: {HOLE} is taken: this process")
    assert not is_said("port ... is taken", f"port {HOLE} of {HOLE}")
    assert not is_said("it was never said", "something else")
