"""What a test must not do: wait by the clock, look into private attributes, patch what is ours.

`faults` finds it in a text. A table says which calls of `sleep` stay; `test_hygiene.py` holds every
file of `tests/` to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Kind = Literal["sleep", "private", "patch"]

OURS: Final = frozenset({"netloader", "netmesh", "mesh_inspect", "netbench", "netsim", "tests"})
"""First names of the packages that are under test, and of the tests' own helpers."""

SLOW_THINGS: Final[dict[str, tuple[int, str]]] = {
    "tests/e2e/cases.py": (1, "a file on slow storage"),
    "tests/e2e/servers.py": (3, "a server of another process is asked again, with a deadline"),
    "tests/loader/replica/many_sources.py": (1, "a source that is slower than others"),
    "tests/loader/slow_storage.py": (1, "a file on slow storage"),
    "tests/loader/source/test_rotation.py": (1, "what lingers after a change is counted for 0.5 s"),
    "tests/loader/support/leftovers.py": (1, "`settle` looks again, until nothing changes"),
    "tests/loader/support/waiting.py": (1, "`until` looks again, with a deadline"),
    "tests/mesh/test_budget.py": (2, "connects are counted over some time"),
    "tests/mesh/support.py": (1, "`until` looks again, with a deadline"),
    "tests/mesh/test_namespaces.py": (1, "a cut of the network that lasts for 1.5 s"),
    "tests/mesh/test_processes.py": (1, "other processes are asked again, with a deadline"),
    "tests/tools/mesh_inspect/web/cost.py": (2, "a measurement, which no test runs"),
    "tests/mesh/worker.py": (1, "a child that outlives its parent, with a deadline"),
}
"""Calls of `sleep` that stay, by file: how many, and what they stand for. None of them decides
whether a test passes."""


class Fault(NamedTuple):
    line: int
    kind: Kind
    text: str


_IMPORT: Final = re.compile(
    rf"\b(?:from|import) ((?:{'|'.join(sorted(OURS - {'tests'}))})(?:\.\w+)*)(?: import (\w+))?"
)


def named(source: str) -> set[str]:
    """Our modules, and what is imported from one, in the strings of a text: scripts for another
    interpreter."""
    texts = (_text(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {
        f"{module}.{name}" if name else module
        for text in texts
        for module, name in _IMPORT.findall(text)
    }


def imported(source: str) -> set[str]:
    """Our modules, and what is imported from one, by the statements of a text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if _is_ours(name) and name.partition(".")[0] != "tests"}


def defined(source: str) -> set[str]:
    """The names that a module of this text has, those in its functions and classes left out."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(ast.parse(source).body)
    while todo:
        match todo.pop():
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in names}
            case ast.stmt() as other:
                todo += [node for node in ast.walk(other) if isinstance(node, ast.stmt)][1:]
                found |= {
                    node.id
                    for node in ast.walk(other)
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                }
    return found


def faults(source: str) -> list[Fault]:
    """What a test with this text does and should not, in the order of its lines."""
    tree = ast.parse(source)
    known = _Known.of(tree)
    return sorted(fault for node in ast.walk(tree) for fault in _faults_of(node, known))


@dataclass(frozen=True)
class _Known:
    """What the names in a file stand for, as far as imports tell."""

    modules: dict[str, str] = field(default_factory=dict)
    """Full name of what was imported, by the name it is used under."""

    @classmethod
    def of(cls, tree: ast.Module) -> _Known:
        known = cls()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    first = alias.name.partition(".")[0]
                    known.modules[alias.asname or first] = alias.name if alias.asname else first
            elif isinstance(node, ast.ImportFrom):
                package = "tests" if node.level else node.module
                for alias in node.names:
                    known.modules[alias.asname or alias.name] = f"{package}.{alias.name}"
            elif (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and _name(node.value.func).endswith("importorskip")
            ):
                # `resolver = pytest.importorskip("dns.resolver")` imports as well.
                for target in node.targets:
                    known.modules[_name(target)] = _text(node.value.args[0])
        return known

    def full(self, expression: ast.expr) -> str:
        """The full name of an expression like `a.b.c`; empty where no import says what it is."""
        first, dot, rest = _name(expression).partition(".")
        return f"{self.modules[first]}{dot}{rest}" if first in self.modules else ""

    def is_ours(self, expression: ast.expr) -> bool:
        """Whether an expression is a module, a class or a part of one that is ours."""
        return _is_ours(self.full(expression))

    def may_be_ours(self, expression: ast.expr) -> bool:
        """Whether it may be: what no import tells of may be an object of ours."""
        return not self.full(expression) or self.is_ours(expression)


def _faults_of(node: ast.AST, known: _Known) -> Iterator[Fault]:
    if isinstance(node, ast.Call):
        if _sleeps(node, known):
            yield _fault(node, "sleep")
        if _patches(node, known):
            yield _fault(node, "patch")
        if _name(node.func) in ("getattr", "hasattr") and _is_private(_text(node.args[1])):
            yield _fault(node, "private")
    elif isinstance(node, ast.Attribute):
        own = _name(node.value) in ("self", "cls")
        if _is_private(node.attr) and not own and known.may_be_ours(node.value):
            yield _fault(node, "private")
        elif isinstance(node.ctx, (ast.Store, ast.Del)) and known.is_ours(node.value):
            yield _fault(node, "patch")
    elif isinstance(node, ast.ImportFrom) and (node.level or _is_ours(node.module or "")):
        for alias in node.names:
            if _is_private(alias.name):
                yield _fault(node, "private")


def _sleeps(call: ast.Call, known: _Known) -> bool:
    if known.full(call.func) in ("time.sleep", "asyncio.sleep"):
        return True
    # `Event().wait(1)`: nobody else has the event that could set it.
    waited = call.func.value if isinstance(call.func, ast.Attribute) else None
    return (
        isinstance(waited, ast.Call)
        and known.full(waited.func) == "threading.Event"
        and bool(call.args or call.keywords)
    )


def _patches(call: ast.Call, known: _Known) -> bool:
    """Whether it is one of monkeypatch's, mock's or the plain `setattr`, on something of ours."""
    name = _name(call.func)
    if not call.args:
        return False
    target = call.args[0]
    if name in ("setattr", "delattr"):
        return known.is_ours(target)
    last = name.rpartition(".")[2]
    by_mock = last == "patch" or name.endswith((".patch.object", ".patch.dict", ".patch.multiple"))
    if not by_mock and ("." not in name or last not in ("setattr", "delattr", "setitem")):
        return False
    if isinstance(target, ast.Constant):
        return _is_ours(_text(target))
    if last == "setitem":
        return known.is_ours(target)
    return known.may_be_ours(target)


def _fault(node: ast.expr | ast.ImportFrom, kind: Kind) -> Fault:
    return Fault(node.lineno, kind, ast.unparse(node))


def _name(expression: ast.expr) -> str:
    """`a.b.c` as a text; empty for what is no name."""
    if isinstance(expression, ast.Name):
        return expression.id
    if isinstance(expression, ast.Attribute) and (before := _name(expression.value)):
        return f"{before}.{expression.attr}"
    return ""


def _text(expression: ast.expr) -> str:
    """The value of a constant that is a text; empty for anything else."""
    value = expression.value if isinstance(expression, ast.Constant) else None
    return value if isinstance(value, str) else ""


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_ours(full: str) -> bool:
    return full.partition(".")[0] in OURS
