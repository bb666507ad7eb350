"""Tests wait for what happens, read what is public, and pass in what they want to be different."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import pytest

from tests.hygiene import (
    SLOW_THINGS,
    Fault,
    Kind,
    defined,
    faults,
    imported,
    named,
)

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))

KINDS: tuple[Kind, ...] = ("sleep", "private", "patch")


@pytest.mark.parametrize("file", FILES)
def test_file_does_only_what_the_table_allows(file: str) -> None:
    found = faults((ROOT / file).read_text())
    counts = Counter(fault.kind for fault in found)
    for kind in KINDS:
        allowed, _ = SLOW_THINGS.get(file, (0, "")) if kind == "sleep" else (0, "")
        assert counts[kind] <= allowed, "\n".join(listed(file, kind, found))
        assert counts[kind] == allowed, f"{file} has {counts[kind]} of {kind}: lower the table"


def listed(file: str, kind: Kind, found: list[Fault]) -> list[str]:
    return [f"{file}:{fault.line}: {kind}: {fault.text}" for fault in found if fault.kind == kind]


@pytest.mark.parametrize("file", FILES)
def test_scripts_in_strings_name_modules_that_exist(file: str) -> None:
    """Where this tree has none, such a script finds a module of another installation."""
    missing = {name for name in named((ROOT / file).read_text()) if not exists(name)}
    assert missing == set()


@pytest.mark.parametrize("file", FILES)
def test_names_that_are_imported_exist(file: str) -> None:
    """Files that need vLLM are collected without it, and run minutes later."""
    missing = {name for name in imported((ROOT / file).read_text()) if not exists(name)}
    assert missing == set()


@functools.cache
def exists(name: str) -> bool:
    """Whether a full name is that of a module of this tree, or is defined in one."""
    module, _, last = name.rpartition(".")
    for root in ("mesh", "loader", "tools"):
        path = ROOT / root / name.replace(".", "/")
        if path.is_dir() or path.with_suffix(".py").exists():
            return True
        inside = ROOT / root / module.replace(".", "/")
        text = inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
        if module and text.exists() and last in names_in(text):
            return True
    return False


@functools.cache
def names_in(file: Path) -> set[str]:
    return defined(file.read_text())


def test_names_in_scripts_are_found() -> None:
    script = "import os\n" + "from netloader" + ".gone import one"
    assert named(f"code = {script!r}") == {"netloader.gone.one"}
    assert exists("netloader.system.affinity.remember") and exists("netmesh.Mesh")
    assert not exists("netloader.gone") and not exists("netloader.system.affinity.forget")


def test_names_in_statements_are_found() -> None:
    lines = (
        "def f():\n    from netmesh.core.wire import Codec, mesh_tag\nimport netloader.plain, os"
    )
    assert imported(lines) == {
        "netmesh.core.wire.Codec",
        "netmesh.core.wire.mesh_tag",
        "netloader.plain",
    }
    text = "if X:\n    A: int = 1\nelse:\n    from b import C as D\ndef e():\n    f = 1"
    assert defined(text) == {"A", "D", "e"}


def test_the_table_names_files_that_exist_and_counts_above_zero() -> None:
    assert set(SLOW_THINGS) <= set(FILES)
    assert all(count > 0 and reason for count, reason in SLOW_THINGS.values())


MUST_NOT_BE: list[tuple[Kind, str, str]] = [
    ("sleep", "import time", "time.sleep(1)"),
    ("sleep", "import time as t", "t.sleep(1)"),
    ("sleep", "from time import sleep as rest", "rest(1)"),
    ("sleep", "import asyncio", "asyncio.sleep(0)"),
    ("sleep", "import threading", "threading.Event().wait(0.1)"),
    ("private", "source = 1", "source._inbox.put(1)"),
    ("private", "from netmesh import Mesh", "Mesh.start()._engine"),
    ("private", "import netloader.plain", "netloader.plain._limit = 1"),
    ("private", "", "from netloader.weights.digests import _SPREAD"),
    ("private", "", "from .support import _hidden"),
    ("private", "source = 1", "getattr(source, '_port')"),
    ("patch", "from netmesh.io import links", "monkeypatch.setattr(links, 'A', 1)"),
    ("patch", "links = 1", "monkeypatch.setattr(links, 'A', 1)"),
    ("patch", "", "monkeypatch.setattr('netloader.plain.LIMIT', 1)"),
    ("patch", "from netloader import plain", "context.delattr(plain, 'LIMIT')"),
    ("patch", "from netloader import plain", "monkeypatch.setitem(plain.TABLE, 'a', 1)"),
    ("patch", "from netmesh import Mesh", "mock.patch.object(Mesh, 'start')"),
    ("patch", "from unittest.mock import patch", "patch('netmesh.io.links.A', 1)"),
    ("patch", "from netloader.replica import schedule", "setattr(schedule, 'WINDOW', 8)"),
    ("patch", "from netloader.replica import schedule", "schedule.WINDOW = 8"),
]

MAY_BE = [
    ("import time", "time.monotonic()"),
    ("import threading", "done = threading.Event(); done.wait(5)"),
    ("class Fake:", "    def f(self): return self._left"),
    ("import os", "os._exit(0)"),
    ("from torch._C import Store", ""),
    ("from vllm.v1 import runner", "runner._WORLD.x()"),
    ("import os", "monkeypatch.setattr(os, 'geteuid', lambda: 1)"),
    ("", "monkeypatch.setattr('tempfile.gettempdir', lambda: '/tmp')"),
    ("resolver = pytest.importorskip('dns.resolver')", "monkeypatch.setattr(resolver, 'x', 1)"),
    ("", "monkeypatch.setenv('NAME', 'value')"),
    ("made = nn.Module()", "setattr(made, 'x', 1); made.y = 2"),
    ("value = 1", "value.__dict__"),
]


@pytest.mark.parametrize(("kind", "before", "line"), MUST_NOT_BE)
def test_the_check_finds_what_must_not_be(kind: Kind, before: str, line: str) -> None:
    assert [(fault.line, fault.kind) for fault in faults(f"{before}\n{line}")] == [(2, kind)]


@pytest.mark.parametrize(("before", "line"), MAY_BE)
def test_the_check_leaves_alone_what_may_be(before: str, line: str) -> None:
    assert faults(f"{before}\n{line}") == []
