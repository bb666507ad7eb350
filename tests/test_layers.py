"""Every file stands in its room: imports run down `tests/layers.py`, and pure rooms stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers import FACES, IMPURE, LAYERS, NOWHERE, ONLY_IN, PURE

ROOT = Path(__file__).parents[1]
ROOTS = tuple(ROOT / name for name in ("mesh", "loader", "tools"))
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}


def modules() -> Iterator[tuple[str, Path]]:
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


MODULES = dict(modules())
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)


def imports(source: str) -> set[str]:
    """All that a text imports, at its top or inside a function, as full names; and what it takes
    from inside a package that has a face."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            taken = f"{node.value.id}.{node.attr}"
            found |= {taken} if node.value.id in FACES and taken in MODULES else set()
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` needs the module, and no other room of the package.
            inside = {name for name in names if name in MODULES}
            found |= inside | ({node.module or ""} if inside != names else set())
    return found


def room(module: str) -> str:
    """The room that a module stands in. Raises `KeyError` for one without a room."""
    parts = module.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next(name for name in names if name in FLOOR)


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in {name.partition(".")[0] for name in FLOOR}


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{name}.") for name in rooms)


def is_behind_a_face(module: str, name: str) -> bool:
    """Whether a name is inside a package of which this module may only see the outside."""
    package = name.partition(".")[0]
    if package not in FACES or name == package or within(module, (package,)):
        return False
    opened = FACES[package].get(module.partition(".")[0])
    return opened is None or not within(name, (opened,))


def faults(module: str, source: str) -> list[str]:
    """What a module with this text imports and must not."""
    here = room(module)
    found = []
    for name in sorted(imports(source)):
        package = name.partition(".")[0]
        if package in NOWHERE:
            found.append(f"{module} imports {name}, which nothing may")
        elif package in ONLY_IN and not within(module, ONLY_IN[package]):
            found.append(f"{module} imports {name}: only {', '.join(ONLY_IN[package])} may")
        elif package in IMPURE and within(module, PURE):
            found.append(f"{module} is pure and imports {name}")
        elif is_ours(name):
            there = room(name)
            beside = there != here and FLOOR[there] == FLOOR[here]
            if FLOOR[there] < FLOOR[here] or beside:
                found.append(
                    f"{module} imports {name}, which stands {'beside' if beside else 'above'} it"
                )
            elif is_behind_a_face(module, name):
                found.append(f"{module} imports {name}: only {package} itself is for others")
    return found


@EVERY_MODULE
def test_imports_run_down_the_table(module: str) -> None:
    assert faults(module, MODULES[module].read_text()) == []


def test_every_room_of_the_table_exists() -> None:
    planned = {"netloader.terms"} - set(MODULES)
    for name in set(FLOOR) - planned:
        assert name in MODULES, f"{name} is in the table and not in the tree"


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("netloader.replica.pull", "from netloader.source.service import Source", "beside"),
        ("netloader.source.service", "from netloader import replica", "beside"),
        ("netloader.weights.digests", "import netloader.worker.loading.plan", "above"),
        ("netloader.weights.digests", "def f():\n    from netloader.engine import plugin", "above"),
        ("netmesh.core.wire", "from netmesh.io.links import Links", "above"),
        ("netmesh.settings", "import netloader.config", "above"),
        ("netmesh.io.server", "from netmesh.bootstrap.finder import Finder", "beside"),
        ("netloader.config", "from netmesh.settings import MeshSettings", "only netmesh itself"),
        ("netloader.config", "import netmesh.errors", "only netmesh itself"),
        ("netloader.config", "from netmesh import settings", "only netmesh itself"),
        ("netloader.config", "import netmesh\nnetmesh.errors.MeshError", "only netmesh itself"),
        ("netbench.puller", "import netmesh.core.engine", "only netmesh itself"),
        ("netsim.world", "from netmesh.io.shell import Shell", "only netmesh itself"),
        ("netloader.config", "import mesh_inspect.cli", "above"),
        ("netloader.worker.process", "import vllm.config", "only netloader.engine"),
        ("netloader.transport.gloo", "import torch_npu", "only netloader.transport.npu"),
        ("netloader.discovery.advert", "from torch import nn", "only"),
        ("netloader.identity.identity", "import time", "pure"),
        ("netmesh.core.wire", "from random import Random", "pure"),
        ("netloader.checkpoint.tables", "import pickle", "nothing may"),
    ],
)
def test_the_check_finds_what_must_not_be(module: str, source: str, fault: str) -> None:
    (found,) = faults(module, source)
    assert fault in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("netloader.replica.pull", "from netloader.weights import digests"),
        ("netloader.replica.pull", "from netloader.replica.stream import Stream"),
        ("netloader.worker.process", "import netmesh, torch, json"),
        ("netloader.config", "from netmesh import MeshSettings"),
        ("netsim.world", "from netmesh.core.engine import Engine"),
        ("netloader.engine.loader", "from vllm.config import VllmConfig"),
    ],
)
def test_the_check_leaves_alone_what_may_be(module: str, source: str) -> None:
    assert faults(module, source) == []
