"""A tree of vLLM's sources, read without importing any of it: what is where, and of which type.

Only what the engine room's uses need: modules, classes with their bases, functions, and annotations
as far as they name classes of the same tree.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

Kind = Literal["module", "class", "instance", "function", "method", "value"]

_TRANSPARENT: Final = frozenset({"Annotated", "ClassVar", "Final", "Optional", "SkipValidation"})

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Thing:
    """Something in the tree: `module` is where it is defined, `path` its dotted name in there."""

    kind: Kind
    module: str
    path: str = ""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.path}".rstrip(".")

    def instance(self) -> Thing:
        return Thing("instance", self.module, self.path)


class Tree:
    """The package `vllm` below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.body = cache(self._body)
        self.found = cache(self._found)

    def version(self) -> str:
        """As the tree itself says it; empty where it does not."""
        for node in ast.walk(ast.Module(self.body("vllm._version") or [], [])):
            if (
                isinstance(node, ast.Assign)
                and "__version__" in {ast.unparse(target) for target in node.targets}
                and isinstance(node.value, ast.Constant)
            ):
                return str(node.value.value).partition("+")[0]
        return ""

    def _body(self, module: str) -> list[ast.stmt] | None:
        """The statements of a module, those in conditions included. None without such a module."""
        place = self._folder / module.replace(".", "/")
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return list(_flat(ast.parse(path.read_text()).body))
        return None

    def _found(self, module: str, name: str) -> Thing | None:
        """What a name at the top of a module is, wherever it is defined."""
        for node in self.body(module) or ():
            match node:
                case ast.ClassDef(name=given) if given == name:
                    return Thing("class", module, name)
                case ast.FunctionDef(name=given) | ast.AsyncFunctionDef(name=given) if (
                    given == name
                ):
                    return Thing("function", module, name)
                case ast.ImportFrom():
                    for alias in node.names:
                        if (alias.asname or alias.name) == name:
                            return self.imported(self._origin(module, node), alias.name)
                case ast.Import():
                    for alias in node.names:
                        if alias.asname == name:
                            return self.imported(alias.name, "")
        for node in self.body(module) or ():
            if name in _stored(node):
                return Thing("value", module, name)
        return None

    def names(self, module: str) -> set[str]:
        """Names that a module imports or defines."""
        found: set[str] = set()
        for node in self.body(module) or ():
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                found.add(node.name)
        return found

    def imported(self, module: str, name: str) -> Thing | None:
        """What `from module import name` gives."""
        full = f"{module}.{name}".rstrip(".")
        if self.body(full) is not None:
            return Thing("module", full)
        return self.found(module, name) if module.partition(".")[0] == "vllm" else None

    def _origin(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = (self._folder / module.replace(".", "/") / "__init__.py").is_file()
        kept = parts[: len(parts) - node.level + is_package]
        return ".".join([*kept, node.module] if node.module else kept)

    def member(self, owner: Thing, name: str) -> Thing | None:
        """What `owner.name` is; None when there is none, or nobody can tell."""
        if owner.kind == "module":
            return self.imported(owner.module, name)
        if owner.kind not in ("class", "instance"):
            return None
        for place in self.lineage(owner):
            for node in self._class(place).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return Thing("class", place.module, f"{place.path}.{name}")
            if self._declared(place, name) is not None:
                node = self._declared(place, name)
                kind: Kind = "method" if isinstance(node, _FUNCTIONS) else "value"
                return Thing(kind, place.module, f"{place.path}.{name}")
        return None

    def lineage(self, owner: Thing) -> Iterator[Thing]:
        """The class itself and its bases, as far as they are vLLM's."""
        yield (start := Thing("class", owner.module, owner.path))
        for base in self._class(start).bases:
            found = self.typed(owner.module, base)
            if found is not None:
                yield from self.lineage(found)

    def type_of(self, thing: Thing) -> Thing | None:
        """The class that a value, or a call's result, is an object of."""
        if thing.kind == "class":
            return thing.instance()
        owner, _, name = thing.path.rpartition(".")
        if thing.kind in ("method", "value") and owner:
            node = self._declared(Thing("class", thing.module, owner), name)
        else:
            node = next(
                (
                    node
                    for node in self.body(thing.module) or ()
                    if (isinstance(node, _FUNCTIONS) and node.name == name)
                    or (isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name)
                ),
                None,
            )
        annotation = getattr(node, "returns", None) or getattr(node, "annotation", None)
        if annotation is None and isinstance(node, ast.Assign) and owner:
            annotation = self._passed(Thing("class", thing.module, owner), node)
        found = None if annotation is None else self.typed(thing.module, annotation)
        return None if found is None else found.instance()

    def is_property(self, thing: Thing) -> bool:
        owner, _, name = thing.path.rpartition(".")
        node = self._declared(Thing("class", thing.module, owner), name) if owner else None
        marks = node.decorator_list if isinstance(node, _FUNCTIONS) else []
        return any("property" in ast.unparse(mark) for mark in marks)

    def typed(self, module: str, annotation: ast.expr) -> Thing | None:
        """The class of the tree that an annotation names. Of `A | B` the first; of what is made
        from other types only what means the type itself."""
        match annotation:
            case ast.Constant(value=str(text)):
                return self.typed(module, ast.parse(text, mode="eval").body)
            case ast.BinOp(left=left):
                return self.typed(module, left)
            case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in _TRANSPARENT:
                return self.typed(module, inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
            case ast.Name(id=name):
                found = self.found(module, name)
            case ast.Attribute(value=ast.Name(id=holder), attr=name):
                place = self.found(module, holder)
                found = None if place is None else self.member(place, name)
            case _:
                return None
        return found if found is not None and found.kind == "class" else None

    def words(self, thing: Thing) -> str:
        """The parameters of what can be called, `name=...` where there is a default; else its
        kind."""
        owner, _, name = thing.path.rpartition(".")
        if thing.kind == "function":
            nodes = [node for node in self.body(thing.module) or () if isinstance(node, _FUNCTIONS)]
            return _parameters(next(node for node in nodes if node.name == name))
        if thing.kind == "method" and not self.is_property(thing):
            node = self._declared(Thing("class", thing.module, owner), name)
            assert isinstance(node, _FUNCTIONS)
            static = any("staticmethod" in ast.unparse(mark) for mark in node.decorator_list)
            return ("static " if static else "") + _parameters(node)
        return "value" if thing.kind == "method" else thing.kind

    def _passed(self, owner: Thing, node: ast.Assign) -> ast.expr | None:
        """The annotation of the parameter that `self.name = parameter` keeps."""
        for method in self._class(owner).body:
            if isinstance(method, _FUNCTIONS) and node in ast.walk(method):
                for argument in method.args.args:
                    if argument.arg == ast.unparse(node.value):
                        return argument.annotation
        return None

    def _class(self, thing: Thing) -> ast.ClassDef:
        body = self.body(thing.module) or []
        for part in thing.path.split("."):
            node = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == part)
            body = node.body
        return node

    def _declared(self, owner: Thing, name: str) -> ast.stmt | None:
        """Where a class says that its objects have this attribute."""
        body = self._class(owner).body
        for node in body:
            if isinstance(node, _FUNCTIONS) and node.name == name:
                return node
            if name in _stored(node):
                return node
        for method in body:
            if isinstance(method, _FUNCTIONS):
                for node in ast.walk(method):
                    if isinstance(node, (ast.Assign, ast.AnnAssign)) and f"self.{name}" in {
                        ast.unparse(target) for target in _targets(node)
                    }:
                        return node
        return None


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, (ast.If, ast.Try)):
            for part in ("body", "orelse", "finalbody"):
                yield from _flat(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _flat(handler.body)


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return [part for t in node.targets for part in getattr(t, "elts", [t])]
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _stored(node: ast.stmt) -> set[str]:
    return {ast.unparse(target) for target in _targets(node)}


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    given = node.args

    def bare(arguments: list[ast.arg]) -> list[ast.arg]:
        return [ast.arg(argument.arg) for argument in arguments]

    shown = ast.arguments(
        bare(given.posonlyargs),
        bare(given.args),
        given.vararg and ast.arg(given.vararg.arg),
        bare(given.kwonlyargs),
        [default and ast.Constant(...) for default in given.kw_defaults],
        given.kwarg and ast.arg(given.kwarg.arg),
        [ast.Constant(...) for _ in given.defaults],
    )
    return f"({ast.unparse(shown)})"
