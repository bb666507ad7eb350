"""The list of parts in `netmesh.core` is the order in which they import each other."""

import ast
import re
from pathlib import Path

import netmesh.core

FOLDER = Path(netmesh.core.__file__).parent
MODULES = {path.stem: path for path in FOLDER.glob("*.py") if path.stem != "__init__"}


def lines() -> list[list[str]]:
    """The names of each line; words after two spaces are a comment."""
    listed = re.findall(r"^ {4}(\S.*)$", netmesh.core.__doc__ or "", re.MULTILINE)
    return [re.split(r" {2,}", line)[0].split() for line in listed]


def imported(module: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "netmesh.core":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netmesh.core."):
            found.add((node.module or "").split(".")[2])
    return found


def test_every_part_is_listed_once() -> None:
    assert sorted(name for line in lines() for name in line) == sorted(MODULES)


def test_a_part_imports_only_from_lines_below_its_own() -> None:
    place = {name: number for number, line in enumerate(lines()) for name in line}
    upward = [(m, i) for m in MODULES for i in imported(m) if place[i] <= place[m]]
    assert not upward
