"""Which names of devices' libraries our code uses, found in its own text.

    python -m tests.device_symbols      write them into ascend.md and cuda.md of docs/reference

`test_device_symbols.py` compares the two, `tests/ascend/test_plugins.py` the names of Ascend's
libraries with these libraries.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
HEADING: Final = "Symbols used"

_HELD: Final = frozenset({"group", "_group", "options", "work", "stream", "_stream", "current"})
"""Names under which our code holds objects of those libraries that have no type here."""


@dataclass(frozen=True)
class Family:
    """The libraries of one kind of device, and how their names look."""

    page: Path
    roots: tuple[str, ...]
    """Beginnings of the full names of what Python offers."""
    rows: Mapping[str, str]
    """Title and pattern of each row of the table: the first that fits takes a name."""


ASCEND: Final = Family(
    ROOT / "docs/reference/ascend.md",
    ("torch_npu", "torch.ops.npu"),
    {
        "HCCL": r"Hccl[A-Z]\w+|libhccl\.so",
        "CANN": r"acl[A-Za-z]*[A-Z]\w+|libascendcl\.so",
        "environment": r"(?:P2P_HCCL|HCCL|TORCH_HCCL|ACL|ASCEND)_[A-Z_]+",
        "vLLM Ascend": r"vllm_ascend(?:\.\w+)*",
        "torch_npu": r"(?:torch_npu|torch\.ops\.npu)\.[\w.]+|hccl_[a-z]+_[a-z_]+",
        "attributes of objects of torch_npu": r"\w+",
    },
)
CUDA: Final = Family(
    ROOT / "docs/reference/cuda.md",
    ("torch.cuda",),
    {
        "NCCL": r"nccl[A-Z]\w+|libnccl\.so[.\d]*",
        "CUDA": r"cuda[A-Z]\w+|libcudart\.so[.\d]*",
        "environment": r"(?:NCCL|TORCH_NCCL|CUDA)_[A-Z_]+",
        "torch": r"torch\.cuda\.[\w.]+",
        "attributes of objects of torch": r"\w+",
    },
)


@dataclass
class _Text:
    tree: ast.Module
    names: dict[str, str] = field(default_factory=dict)
    """Full name of what was imported, by the name it is used under."""

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    self.names[alias.asname or first] = alias.name if alias.asname else first

    def full(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (before := self.full(node.value)):
            return f"{before}.{node.attr}"
        return ""


def used(family: Family) -> set[str]:
    """By all of our code."""
    texts = [path.read_text() for path in sorted((ROOT / "loader/netloader").rglob("*.py"))]
    own: set[str] = set()
    for text in texts:
        own |= _defined(ast.parse(text))
    return {name for text in texts for name in symbols(text, family, own)}


def symbols(text: str, family: Family, own: set[str]) -> set[str]:
    """What a text uses; `own` are names that we define ourselves."""
    read = _Text(ast.parse(text))
    *named, _ = family.rows.values()
    pattern = re.compile("|".join(f"(?:{one})" for one in named))
    prose = {id(node.value) for node in ast.walk(read.tree) if isinstance(node, ast.Expr)}
    inner = {id(node.value) for node in ast.walk(read.tree) if isinstance(node, ast.Attribute)}
    found: set[str] = set()
    held: set[str] = set()
    for node in ast.walk(read.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found |= {node.value} if pattern.fullmatch(node.value) else set()
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            full = read.full(node)
            found |= {full} if full.startswith(family.roots) and pattern.fullmatch(full) else set()
        if isinstance(node, ast.Attribute):
            found |= {node.attr} if pattern.fullmatch(node.attr) and node.attr not in own else set()
            if ast.unparse(node.value).rpartition(".")[2] in _HELD and node.attr not in own:
                held.add(node.attr)
        elif isinstance(node, ast.Name) and id(node) not in inner:
            full = read.full(node)
            found |= {full} if full.startswith(family.roots) and pattern.fullmatch(full) else set()
    return found | held if any(name.startswith(family.roots) for name in found) else found


def _defined(tree: ast.Module) -> set[str]:
    names = {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            names |= {
                target.attr
                for target in targets
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
            }
    return names


def table(family: Family) -> str:
    """The table of a page, without its heading."""
    left = used(family)
    lines = ["| library | names |", "|---|---|"]
    for title, pattern in family.rows.items():
        names = sorted(name for name in left if re.fullmatch(pattern, name))
        left -= set(names)
        if names:
            lines.append(f"| {title} | {', '.join(f'`{name}`' for name in names)} |")
    return "\n".join(lines) + "\n"


def listed(text: str) -> str:
    """The table that a page has."""
    part = text.partition(f"\n## {HEADING}\n")[2].partition("\n## ")[0]
    return "".join(f"{line}\n" for line in part.splitlines() if line.startswith("|"))


def main() -> None:
    for family in (ASCEND, CUDA):
        text = family.page.read_text()
        family.page.write_text(text.replace(listed(text), table(family)))


if __name__ == "__main__":
    main()
