"""netmesh is for strangers: it names nobody who uses it, and nothing of what they use it for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import netmesh

FOREIGN = re.compile(r"net-?loader|mesh.inspect|vllm|torch|\bweights?\b|checkpoint", re.IGNORECASE)

FILES = sorted(path for path in Path(netmesh.__file__).parent.rglob("*") if path.is_file())
SOURCES = [path for path in FILES if path.suffix == ".py"]


def foreign(text: str) -> list[str]:
    return [line for line in text.splitlines() if FOREIGN.search(line)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_of_netmesh_names_no_user_of_it(path: Path) -> None:
    assert foreign(path.read_text()) == []
    assert not FOREIGN.search(path.name)


@pytest.mark.parametrize(
    "line",
    [
        'PREFIX = "NETLOADER_"',
        "# as vLLM does",
        "make one: mesh-inspect keygen",
        "import mesh_inspect",
        "loads a weight",
        '"netloader-mesh"',
        "import torch",
    ],
)
def test_the_check_finds_a_name(line: str) -> None:
    assert foreign(f"fine\n{line}") == [line]


def test_the_check_leaves_other_words_alone() -> None:
    assert foreign("HEARD_WEIGHT = 1\nweightless\nloader\nnetmesh") == []
