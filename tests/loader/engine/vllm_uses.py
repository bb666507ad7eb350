"""What the engine room uses of vLLM, found in its own texts: no list that somebody has to keep.

A use is anything of vLLM that is imported, called, read, derived from or overridden. Types come
from annotations, ours and vLLM's; an object whose type no annotation tells is not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.loader.engine.vllm_source import Thing, Tree

ENGINE: Final = Path(__file__).parents[3] / "loader/netloader/engine"

_OPENERS: Final = "_weights_iterator"
"""`storage.py` replaces every function of this ending in the module of vLLM's loader."""

_OPENERS_IN: Final = "vllm.model_executor.model_loader.default_loader"

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Called:
    """One call: how many arguments stand by position, which are named, whether any are unpacked."""

    name: str
    count: int
    names: tuple[str, ...]
    open: bool


@dataclass(frozen=True)
class Overridden:
    """A method of ours in place of one of vLLM's, with our parameters."""

    name: str
    parameters: str


@dataclass
class Uses:
    """All of them, in one tree of vLLM."""

    tree: Tree
    words: dict[str, str | None] = field(default_factory=dict)
    """Parameters or kind, by full name; None for what this tree has not."""
    calls: set[Called] = field(default_factory=set)
    overrides: set[Overridden] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    """What `versions.later` is asked for."""
    guarded: set[str] = field(default_factory=set)
    """Parts that need not be there and are asked for in another way, with the file that asks."""


def uses(tree: Tree, texts: dict[str, str] | None = None) -> Uses:
    """`texts` by file name; the engine room's own when none are given."""
    if texts is None:
        texts = {path.name: path.read_text() for path in sorted(ENGINE.glob("*.py"))}
    found = Uses(tree)
    for name, text in texts.items():
        _File(found, name, ast.parse(text)).walk()
    for name in tree.names(_OPENERS_IN):
        opener = tree.imported(_OPENERS_IN, name)
        if opener is not None and is_opener(f"{_OPENERS_IN}.{name}"):
            found.words[f"{_OPENERS_IN}.{name}"] = tree.words(opener)
    return found


def is_opener(name: str) -> bool:
    """Whether it is one of the functions that each version has some of."""
    module, _, last = name.rpartition(".")
    return module == _OPENERS_IN and last.endswith(_OPENERS)


def own_class(node: ast.ClassDef) -> Thing:
    """A class of ours, told from vLLM's by having no module."""
    return Thing("class", "", node.name)


class _File:
    def __init__(self, uses: Uses, name: str, tree: ast.Module) -> None:
        self._uses = uses
        self._name = name
        self._tree = uses.tree
        self._module = tree
        self._classes = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
        self._functions = {n.name: n for n in tree.body if isinstance(n, _FUNCTIONS)}

    def walk(self) -> None:
        names: dict[str, Thing] = {}
        self._block(self._module.body, names, None)

    # Scopes

    def _block(
        self, body: list[ast.stmt], names: dict[str, Thing], owner: ast.ClassDef | None
    ) -> None:
        for node in body:
            if isinstance(node, _FUNCTIONS):
                self._function(node, dict(names), owner)
            elif isinstance(node, ast.ClassDef):
                self._class(node, names)
            else:
                self._statement(node, names, owner)

    def _class(self, node: ast.ClassDef, names: dict[str, Thing]) -> None:
        for base in node.bases:
            self._type(base, names)
        for method in node.body:
            if isinstance(method, _FUNCTIONS):
                base = self._inherited(node, method.name, names)
                if base is not None and base.kind == "method":
                    parameters = ast.unparse(method.args)
                    self._uses.overrides.add(Overridden(self._used(base), f"({parameters})"))
        self._block(node.body, dict(names), node)

    def _function(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        names: dict[str, Thing],
        owner: ast.ClassDef | None,
    ) -> None:
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in given:
            names.pop(argument.arg, None)
            found = argument.annotation and self._annotated(argument.annotation, names)
            if found is not None:
                names[argument.arg] = found
        if owner is not None and given:
            names[given[0].arg] = own_class(owner).instance()
        self._block(node.body, names, owner)

    def _statement(
        self, node: ast.stmt, names: dict[str, Thing], owner: ast.ClassDef | None
    ) -> None:
        match node:
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "vllm":
                for alias in node.names:
                    found = self._tree.imported(module, alias.name)
                    if found is not None:
                        names[alias.asname or alias.name] = found
                        self._used(found)
                    else:
                        self._uses.words[f"{module}.{alias.name}"] = None
            case ast.Import():
                for alias in node.names:
                    if alias.name.partition(".")[0] == "vllm":
                        # `import vllm.version` makes `vllm`, and the rest is read from there.
                        names[alias.asname or "vllm"] = Thing("module", "vllm")
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value, names)
            case ast.AnnAssign(target=ast.Name(id=name)):
                found = self._annotated(node.annotation, names)
                if found is not None:
                    names[name] = found
        self._read(node, names)
        for part in ("body", "orelse", "finalbody"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                self._block(inner, names, owner)
        for handler in getattr(node, "handlers", []):
            self._block(handler.body, names, owner)

    def _assign(self, target: ast.expr, value: ast.expr, names: dict[str, Thing]) -> None:
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=True))
        for one, given in pairs:
            if isinstance(one, ast.Name):
                found = self._type(given, names)
                names.pop(one.id, None)
                if found is not None:
                    names[one.id] = found

    def _read(self, node: ast.stmt, names: dict[str, Thing]) -> None:
        """Every expression of one statement, without the statements inside it."""
        for expression in _expressions(node):
            if isinstance(expression, ast.Call):
                self._call(expression, names)
            elif isinstance(expression, ast.Attribute):
                self._type(expression, names)

    def _call(self, call: ast.Call, names: dict[str, Thing]) -> None:
        match call:
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"),
                args=[owner, ast.Constant(value=str(name)), *_],
            ):
                holder = self._type(owner, names)
                if holder is not None and holder.module:
                    self._uses.guarded.add(f"{self._name}: {holder.name}.{name}")
                return
            case ast.Call(func=ast.Attribute(value=ast.Name(id="versions"), attr="later")):
                self._asked_later(call, names)
                return
        found = self._type(call.func, names)
        if found is None or not found.module or found.kind not in ("function", "method"):
            return
        unpacked = any(isinstance(a, ast.Starred) for a in call.args)
        named = tuple(k.arg for k in call.keywords if k.arg is not None)
        unpacked |= len(named) < len(call.keywords)
        # A method that is called on its class gets its object by position; others need none.
        by_class = isinstance(call.func, ast.Attribute) and self._is_class(call.func.value, names)
        takes_self = (self._uses.tree.words(found) or "").startswith("(self")
        count = len(call.args) - (1 if by_class and takes_self else 0)
        self._uses.calls.add(Called(self._used(found), count, named, unpacked))

    def _asked_later(self, call: ast.Call, names: dict[str, Thing]) -> None:
        holder = self._type(call.args[0], names)
        assert holder is not None, f"{self._name}: of what? {ast.unparse(call)}"
        for name in self._texts(call.args[1]):
            if not holder.module:
                (base,) = self._classes[holder.path].bases
                owner = self._type(base, names)
                while owner is not None and not owner.module:
                    owner = self._type(self._classes[owner.path].bases[0], names)
                assert owner is not None, ast.unparse(call)
            else:
                owner = holder
            found = self._tree.member(owner, name)
            full = f"{owner.name}.{name}" if found is None else self._used(found)
            self._uses.later.add(full)
            self._uses.words.setdefault(full, None)

    def _texts(self, expression: ast.expr) -> list[str]:
        """The constant, or every value of the table that is looked into."""
        if isinstance(expression, ast.Subscript):
            (table,) = (
                node.value
                for node in self._module.body
                if isinstance(node, ast.AnnAssign)
                and ast.unparse(node.target) == ast.unparse(expression.value)
            )
            return [ast.literal_eval(value) for value in getattr(table, "values", [])]
        return [ast.literal_eval(expression)]

    def _is_class(self, expression: ast.expr, names: dict[str, Thing]) -> bool:
        found = self._type(expression, names)
        return found is not None and found.kind == "class"

    # Types

    def _type(self, expression: ast.expr, names: dict[str, Thing]) -> Thing | None:
        """What an expression is, as far as annotations tell; what it takes from vLLM is noted."""
        match expression:
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                return own_class(self._classes[name]) if name in self._classes else None
            case ast.Attribute(value=value, attr=attr):
                owner = self._type(value, names)
                return None if owner is None else self._attribute(owner, attr, names)
            case ast.Call(func=ast.Name(id="super")):
                (base,) = self._classes[names["self"].path].bases
                found = self._type(base, names)
                return None if found is None else found.instance()
            case ast.Call(func=ast.Name(id="type"), args=[value]):
                found = self._type(value, names)
                return None if found is None else Thing("class", found.module, found.path)
            case ast.Call(func=ast.Name(id=name)) if name in self._functions:
                returned = self._functions[name].returns
                return None if returned is None else self._annotated(returned, names)
            case ast.Call(func=func):
                called = self._type(func, names)
                if called is None:
                    return None
                if called.kind == "class":
                    return called.instance()
                if called.module:
                    return self._tree.type_of(called)
                return self._own_result(called, names)
            case ast.IfExp(body=body):
                return self._type(body, names)
        return None

    def _attribute(self, owner: Thing, name: str, names: dict[str, Thing]) -> Thing | None:
        if not owner.module:
            return self._own_attribute(owner, name, names)
        found = self._tree.member(owner, name)
        if found is None:
            self._uses.words[f"{owner.name}.{name}"] = None
            return None
        self._used(found)
        if found.kind == "value" or (found.kind == "method" and self._tree.is_property(found)):
            return self._tree.type_of(found)
        return found

    def _own_attribute(self, owner: Thing, name: str, names: dict[str, Thing]) -> Thing | None:
        node = self._classes[owner.path]
        for part in node.body:
            if isinstance(part, _FUNCTIONS) and part.name == name:
                marked = any("property" in ast.unparse(mark) for mark in part.decorator_list)
                if marked:
                    return part.returns and self._annotated(part.returns, names)
                return Thing("method", "", f"{owner.path}.{name}")
            if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == name:
                return self._annotated(part.annotation, names)
        found = self._inherited(node, name, names)
        if found is None:
            return None
        self._used(found)
        return self._tree.type_of(found) if found.kind == "value" else found

    def _own_result(self, called: Thing, names: dict[str, Thing]) -> Thing | None:
        owner, _, name = called.path.partition(".")
        for part in self._classes[owner].body:
            if isinstance(part, _FUNCTIONS) and part.name == name and part.returns is not None:
                return self._annotated(part.returns, names)
        return None

    def _inherited(self, node: ast.ClassDef, name: str, names: dict[str, Thing]) -> Thing | None:
        """What a class of ours has from a base of vLLM's."""
        for base in node.bases:
            found = self._type(base, names)
            if found is None:
                continue
            if not found.module:
                return self._inherited(self._classes[found.path], name, names)
            return self._tree.member(found, name)
        return None

    def _annotated(self, annotation: ast.expr, names: dict[str, Thing]) -> Thing | None:
        """An object of the class that an annotation names: `A`, `A | None` or `ClassVar[A]`."""
        match annotation:
            case ast.BinOp(left=left):
                return self._annotated(left, names)
            case ast.Subscript(value=ast.Name(id="ClassVar" | "Final"), slice=inner):
                return self._annotated(inner, names)
            case ast.Name() | ast.Attribute():
                found = self._type(annotation, names)
                return found.instance() if found is not None and found.kind == "class" else None
        return None

    def _used(self, thing: Thing) -> str:
        self._uses.words[thing.name] = self._tree.words(thing)
        return thing.name


def _expressions(node: ast.stmt) -> Iterator[ast.expr]:
    todo: list[ast.AST] = [
        child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)
    ]
    while todo:
        one = todo.pop()
        if isinstance(one, ast.expr):
            yield one
        todo += [
            child
            for child in ast.iter_child_nodes(one)
            if not isinstance(child, (ast.stmt, ast.ExceptHandler))
        ]
