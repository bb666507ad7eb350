"""Every file stands in its room: imports run down `tests/layers.py`, and pure rooms stay pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers import IMPURE, LAYERS, NEIGHBOURS, NOWHERE, ONLY_IN, PURE

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
    """All that a text imports, at its top or inside a function, as full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
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
            known = (here, there) in NEIGHBOURS or (there, here) in NEIGHBOURS
            if FLOOR[there] < FLOOR[here] or (beside and not known):
                found.append(
                    f"{module} imports {name}, which stands {'beside' if beside else 'above'} it"
                )
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
        ("netloader.weights.digests", "import netloader.worker.load", "above"),
        ("netloader.weights.digests", "def f():\n    from netloader.engine import plugin", "above"),
        ("netmesh.core.wire", "from netmesh.io.links import Links", "above"),
        ("netmesh.settings", "import netloader.config", "above"),
        ("netloader.config", "import mesh_inspect.cli", "above"),
        ("netloader.worker.worker", "import vllm.config", "only netloader.engine"),
        ("netloader.transport.gloo", "import torch_npu", "only netloader.transport.hccl"),
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
        ("netloader.worker.worker", "import netmesh, torch, json"),
        ("netloader.engine.loader", "from vllm.config import VllmConfig"),
    ],
)
def test_the_check_leaves_alone_what_may_be(module: str, source: str) -> None:
    assert faults(module, source) == []
