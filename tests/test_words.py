"""One name, one thing: a class name exists once in the repository.

A private name counts as the public one, because a reader says both alike.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[1]
ROOTS: Final = ("mesh", "loader", "tools")

DUPLICATES: Final[dict[str, int]] = {}
"""Names that more than one class still has, and how many have it. This table only gets shorter."""


def classes(source: str) -> list[str]:
    """Names of all classes in `source`, nested ones too, without leading underscores."""
    nodes = ast.walk(ast.parse(source))
    return [node.name.lstrip("_") for node in nodes if isinstance(node, ast.ClassDef)]


def duplicates(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Class names that are defined more than once in `(path, source)` pairs, and where."""
    places: dict[str, list[str]] = {}
    for path, source in sources:
        for name in classes(source):
            places.setdefault(name, []).append(path)
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def surprises(
    found: Mapping[str, list[str]], known: Mapping[str, int]
) -> tuple[dict[str, list[str]], list[str]]:
    """Duplicates beyond the table, and entries of the table that say more than there is."""
    beyond = {name: paths for name, paths in found.items() if len(paths) > known.get(name, 1)}
    return beyond, sorted(name for name, n in known.items() if len(found.get(name, ())) < n)


@pytest.fixture(scope="module")
def present() -> dict[str, list[str]]:
    files = sorted(file for root in ROOTS for file in (REPOSITORY / root).rglob("*.py"))
    assert len(files) > 100
    return duplicates((str(file.relative_to(REPOSITORY)), file.read_text()) for file in files)


def test_a_class_name_exists_once(present: dict[str, list[str]]) -> None:
    beyond, _ = surprises(present, DUPLICATES)
    assert beyond == {}


def test_every_entry_of_the_table_is_still_needed(present: dict[str, list[str]]) -> None:
    _, needless = surprises(present, DUPLICATES)
    assert needless == []


def test_private_and_nested_names_count() -> None:
    one = "class Link: ...\ndef made():\n    class _Inner: ...\n"
    other = "class _Link: ...\nclass Outer:\n    class Inner: ...\n"
    assert duplicates([("a.py", one), ("b.py", other)]) == {
        "Link": ["a.py", "b.py"],
        "Inner": ["a.py", "b.py"],
    }
    assert duplicates([("a.py", "class Link: ...\nclass _Link: ...\n")]) == {
        "Link": ["a.py", "a.py"]
    }
    assert duplicates([("a.py", "class Link: ...\nLink = Link\nlink: Link\n")]) == {}


def test_the_table_excuses_no_more_than_it_counts() -> None:
    known = {"Link": 2}
    assert surprises({"Link": ["a.py", "b.py"]}, known) == ({}, [])
    third = {"Link": ["a.py", "b.py", "c.py"]}
    assert surprises(third, known) == (third, [])
    assert surprises({"Link": ["a.py", "b.py"]}, {"Link": 3}) == ({}, ["Link"])
    assert surprises({}, known) == ({}, ["Link"])
