"""Arrows between the parts run downward only, and what is heavy is loaded late."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import netloader

PACKAGE = Path(netloader.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
KNOW_VLLM = {
    "describe.py",
    "layout.py",
    "loader.py",
    "plugin.py",
    "registries.py",
    "selection.py",
}
PURE = {
    "advert.py",
    "blocks.py",
    "candidate.py",
    "config.py",
    "content.py",
    "control.py",
    "errors.py",
    "hostcache.py",
    "identity.py",
    "inbox.py",
    "manifest.py",
    "memory.py",
    "model_config.py",
    "opened.py",
    "plain.py",
    "select.py",
    "tables.py",
    "weight_files.py",
}
"""Tested by the thousand without a tensor in sight."""


def imports(path: Path) -> set[str]:
    """Everything a file imports, at the top or inside a function, as full module names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_files_that_are_meant_to_import_vllm(path: Path) -> None:
    assert path.name in KNOW_VLLM or not packages(path) & {"vllm", "vllm_ascend", "torch_npu"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_what_stands_above(path: Path) -> None:
    assert not packages(path) & {"mesh_inspect", "netbench", "tests"}
    above = {"netloader.plugin", "netloader.loader"}
    assert path.name in ("plugin.py", "loader.py") or not imports(path) & above


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_pickles(path: Path) -> None:
    assert not packages(path) & {"pickle", "cloudpickle", "marshal", "shelve", "dill"}


@pytest.mark.parametrize("name", sorted(PURE))
def test_decisions_do_not_import_torch(name: str) -> None:
    assert "torch" not in packages(PACKAGE / name)


def test_importing_the_package_loads_neither_torch_nor_vllm() -> None:
    assert loaded_by("import netloader, netloader.plugin") == set()


def test_everything_below_the_loader_works_without_vllm() -> None:
    assert "vllm" not in loaded_by("import netloader.worker, netloader.pull, netloader.source")


def loaded_by(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    show = "import sys; print(*(name for name in ('torch', 'vllm', 'zmq') if name in sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", f"{code}; {show}"],
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
    )
