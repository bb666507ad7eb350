from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from netloader import plain
from netloader.errors import ManifestError
from netloader.model import attributes


class Method:
    """Stands for a quantisation method: an object that hangs off a module."""

    def __init__(self) -> None:
        self.loaded: object = set()
        self.kernel = Kernel()
        self.named = {"kernel": self.kernel}


class Kernel:
    __slots__ = ("bits", "later")

    def __init__(self) -> None:
        self.bits: object = 4


class Mode(enum.Enum):
    ONE = 1
    TWO = 2


@dataclasses.dataclass(frozen=True)
class Shape:
    rows: object = 2


class Inner(nn.Linear):
    fresh: object
    table: object

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.method = Method()
        self.names: object = {"w1"}
        for parameter in self.parameters():
            parameter.loader = self.load  # type: ignore[attr-defined]
            parameter.dimension = 0  # type: ignore[attr-defined]

    def load(self) -> None: ...


class Model(nn.Module):
    todo: object
    text: object
    known_to_all: object = False

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.scale: object = 1.0
        self.empty: object = []
        self.order: Any = ["a", ["b"]]
        self.alias = self.order[1]
        self.counts: Any = collections.Counter("abc")
        self.ready: Any = collections.deque([1, 2])
        self.groups: Any = collections.defaultdict(list, {"a": [1]})
        self.sorted: Any = collections.OrderedDict(a=1, b=2)
        self.mode: object = Mode.ONE
        self.shape: Any = Shape()
        self.tensor = torch.zeros(3)
        self.array = np.zeros(3)
        self.dtype: object = torch.float32
        self.call: object = functools.partial(print, 1, end="")
        kept = {"seen": 0}
        self.hook: Any = lambda: kept
        self.hidden = [nn.Linear(2, 2)]
        self.raw = bytearray(b"ab")
        self.me = [self]
        self.limits: Any = (1, 2)
        self.extra: object = b"x"

    @property
    def computed(self) -> int:
        raise AssertionError("no code of the model runs")

    @functools.cached_property
    def lazy(self) -> object:
        return object()


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def test_load_that_fills_tensors_only_changes_nothing() -> None:
    made = model()
    before = attributes.snapshot(made)
    nn.init.ones_(made.inner.weight)
    assert attributes.changes(made, before) == {}


@pytest.mark.parametrize("value", [True, 2, 2.5, "x", None, 1, math.inf])
def test_plain_values_that_changed_are_found_and_set(value: float | str | None) -> None:
    source, replica = model(), model()
    before = attributes.snapshot(source)
    source.scale = value
    source.inner.fresh = value
    found = attributes.changes(source, before)
    assert found == {"scale": value, "inner.fresh": value}
    attributes.apply(replica, found)
    assert replica.scale == replica.inner.fresh == value
    assert type(replica.scale) is type(value)


def test_equal_value_of_the_same_type_is_no_change() -> None:
    made = model()
    before = attributes.snapshot(made)
    made.scale = float("1")
    made.order = ["a", made.alias]
    made.shape = Shape()
    made.call = functools.partial(print, 1, end="")
    made.inner.names = {"w1"}
    assert attributes.changes(made, before) == {}


IN_PLACE: dict[str, tuple[Callable[[Model], object], dict[str, attributes.Plain]]] = {
    "set": (lambda made: made.inner.names.add("w2"), {"inner.names": {"w1", "w2"}}),  # type: ignore[attr-defined]
    "emptied": (lambda made: made.inner.names.clear(), {"inner.names": set()}),  # type: ignore[attr-defined]
    "list": (lambda made: made.empty.append(1), {"empty": [1]}),  # type: ignore[attr-defined]
    "nested": (
        lambda made: made.alias.append(2),
        {"order": ["a", ["b", 2]]},
    ),
    "tuple": (lambda made: setattr(made, "limits", (1, True)), {"limits": (1, True)}),
    "list for tuple": (lambda made: setattr(made, "limits", [1, 2]), {"limits": [1, 2]}),
    "zero": (lambda made: setattr(made, "limits", (-0.0, math.nan)), {"limits": (-0.0, math.nan)}),
    "dict": (
        lambda made: setattr(made.inner, "table", {"a": (1, None), 2: frozenset({3})}),
        {"inner.table": {"a": (1, None), 2: frozenset({3})}},
    ),
    "inside an object": (
        lambda made: made.inner.method.loaded.add(3),  # type: ignore[attr-defined]
        {"inner.method.loaded": {3}},
    ),
    "slot": (
        lambda made: setattr(made.inner.method.kernel, "bits", 8),
        {"inner.method.kernel.bits": 8},
    ),
    "empty slot": (
        lambda made: setattr(made.inner.method.kernel, "later", [8]),
        {"inner.method.kernel.later": [8]},
    ),
    "frozen": (lambda made: vars(made.shape).update(rows=3), {"shape.rows": 3}),
    "parameter": (
        lambda made: vars(made.inner.weight).update(dimension=1, loaded=True),
        {"inner.weight.dimension": 1, "inner.weight.loaded": True},
    ),
    "training": (lambda made: made.inner.eval(), {"inner.training": False}),
    "class attribute": (
        lambda made: setattr(made, "known_to_all", True),
        {"known_to_all": True},
    ),
}


@pytest.mark.parametrize("change", IN_PLACE)
def test_plain_data_that_changed_in_place_travels(change: str) -> None:
    source, replica = model(), model()
    make, expected = IN_PLACE[change]
    before = attributes.snapshot(source)
    make(source)
    found = attributes.changes(source, before)
    assert attributes.difference(found, expected) is None

    attributes.apply(replica, found)
    remade = attributes.changes(replica, before=attributes.snapshot(model()))
    assert attributes.difference(remade, expected) is None


def test_containers_keep_their_identity() -> None:
    replica = model()
    order, alias, names = replica.order, replica.alias, replica.inner.names
    attributes.apply(replica, {"order": ["a", ["b", "c"]], "inner.names": {"w2"}})
    assert replica.order is order and replica.order[1] is alias and replica.inner.names is names
    assert alias == ["b", "c"] and names == {"w2"}


def test_what_travels_is_shared_with_no_model() -> None:
    source, replica = model(), model()
    before = attributes.snapshot(source)
    source.inner.table = {"a": [1]}
    found = attributes.changes(source, before)
    attributes.apply(replica, found)
    source.inner.table["a"].append(2)
    assert found == {"inner.table": {"a": [1]}}
    replica.inner.table["a"].append(3)  # type: ignore[index]
    assert found == {"inner.table": {"a": [1]}}


CANNOT: dict[str, tuple[Callable[[Model], object], str]] = {
    "object": (lambda made: setattr(made, "todo", object()), "set todo to a object"),
    "object in a list": (
        lambda made: made.order.append(Kernel()),
        r"set order\[2\] to a Kernel",
    ),
    "tensor": (lambda made: made.tensor.add_(1), r"changed tensor \(content\)"),
    "array": (lambda made: made.array.fill(1), r"changed array \(content\)"),
    "new tensor": (lambda made: setattr(made, "todo", torch.zeros(1)), "set todo to a Tensor"),
    "hidden module": (
        lambda made: nn.init.ones_(made.hidden[0].weight),
        r"changed hidden\[0\].*weight.* \(content\), a Parameter",
    ),
    "counter": (lambda made: made.counts.update("a"), "set counts to a Counter"),
    "deque": (lambda made: made.ready.append(1), "set ready to a deque"),
    "defaultdict": (lambda made: made.groups["b"], "set groups to a defaultdict"),
    "factory": (lambda made: setattr(made.groups, "default_factory", set), r"groups\.default_fac"),
    "order": (lambda made: made.sorted.move_to_end("a"), "set sorted to a OrderedDict"),
    "enum": (lambda made: setattr(made, "mode", Mode.TWO), "set mode to a Mode"),
    "dtype": (lambda made: setattr(made, "dtype", torch.int8), "set dtype to a dtype"),
    "bytes": (lambda made: setattr(made, "extra", b"y"), "set extra to a bytes"),
    "bytearray": (lambda made: made.raw.append(1), r"changed raw \(value\)"),
    "partial": (
        lambda made: setattr(made, "call", functools.partial(print, 2, end="")),
        r"set call\.args",
    ),
    "closure": (lambda made: made.hook().update(seen=1), r"changed hook \(closure kept\)"),
    "function": (lambda made: setattr(made, "hook", lambda: 5), "changed hook|set hook"),
    "loader": (
        lambda made: setattr(made.inner.weight, "loader", made.inner.forward),
        "set inner.weight.loader to a",
    ),
    "in a dict": (lambda made: made.inner.method.named.update(x=object()), "named"),
    "removed": (lambda made: delattr(made, "scale"), "removed scale"),
    "of a parameter": (lambda made: vars(made.inner.weight).clear(), "removed inner.weight.dim"),
    "replaced object": (
        lambda made: setattr(made.inner, "method", Kernel()),
        "set inner.method to a Kernel",
    ),
    "new module": (lambda made: setattr(made, "more", nn.Identity()), "added more"),
    "module gone": (lambda made: delattr(made, "inner"), "removed inner"),
    "other module": (
        lambda made: setattr(made, "inner", nn.Linear(2, 2)),
        "made inner a Linear, it was a Inner",
    ),
    "hook": (
        lambda made: made.inner.register_forward_hook(lambda *_: None),
        r"set inner\._forward_hooks",
    ),
    "not shared any more": (
        lambda made: made.order.__setitem__(1, ["b"]),
        r"who shares",
    ),
    "newly shared": (
        lambda made: setattr(made, "todo", made.inner.names),
        "who shares",
    ),
    "shared and new": (
        lambda made: [vars(made).update(todo=new, text=new) for new in ([1],)],
        "who shares",
    ),
    "text": (lambda made: setattr(made, "text", "x" * 5000), "5000 characters"),
    "no Unicode": (lambda made: setattr(made, "text", "\ud800"), "no Unicode"),
    "many": (lambda made: setattr(made, "todo", list(range(10_001))), "10001 values"),
    "deep": (
        lambda made: setattr(made, "todo", functools.reduce(lambda x, _: [x], range(9), [])),
        "deeper than 8 levels",
    ),
    "dotted": (lambda made: vars(made).update({"a.b": 1}), r"set a\.b, which"),
}


@pytest.mark.parametrize("change", CANNOT)
def test_anything_else_cannot_travel(change: str) -> None:
    made = model()
    make, said = CANNOT[change]
    before = attributes.snapshot(made)
    make(made)
    with pytest.raises(ManifestError, match=said):
        attributes.changes(made, before)


@pytest.mark.parametrize("value", [[], {}, set()])
def test_used_up_work_list_is_no_change(value: object) -> None:
    made = model()
    before = attributes.snapshot(made)
    made.todo = value
    assert attributes.changes(made, before) == {}


def test_work_list_that_was_emptied_is_a_change() -> None:
    made = model()
    made.todo = ["a"]
    before = attributes.snapshot(made)
    made.todo.clear()  # type: ignore[attr-defined]
    assert attributes.changes(made, before) == {"todo": []}


def test_property_that_was_asked_for_is_no_change() -> None:
    made = model()
    before = attributes.snapshot(made)
    assert made.lazy
    assert attributes.changes(made, before) == {}


def test_view_of_a_weight_is_the_weight() -> None:
    made = model()
    made.todo = made.inner.weight.detach().t()
    before = attributes.snapshot(made)
    nn.init.ones_(made.inner.weight)
    assert attributes.changes(made, before) == {}
    made.todo = made.inner.weight.detach()
    with pytest.raises(ManifestError, match=r"changed todo \(content\)"):
        attributes.changes(made, before)


def test_settings_of_the_process_are_nobodys_to_change() -> None:
    settings = type("Settings", (), {"__module__": "vllm.config.model"})()
    settings.trust = False
    made = model()
    made.settings = settings
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"no settings here"):
        attributes.apply(made, {"settings.trust": True})
    settings.trust = True
    with pytest.raises(ManifestError, match=r"set settings\.trust, part of the settings"):
        attributes.changes(made, before)


def test_what_lies_too_deep_is_not_passed_over() -> None:
    made = model()
    chain: list[object] = []
    for _ in range(50):
        chain = [chain, Kernel()]
    made.todo = chain
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .* todo\[0\].* 32 steps"):
        attributes.changes(made, before)


def test_tensor_whose_bytes_cannot_be_read_is_not_passed_over() -> None:
    made = model()
    made.todo = torch.zeros(2, 2).to_sparse()
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .* todo.*bytes cannot be read"):
        attributes.changes(made, before)


def test_object_that_cannot_be_looked_into_stops_no_start() -> None:
    class Odd(dict[str, int]):
        def __class_getitem__(cls, item: object) -> object:
            raise AssertionError

        @property
        def __dict__(self) -> dict[str, object]:  # type: ignore[override]
            raise RuntimeError("nothing to see")

    made = model()
    made.todo = Odd(a=1)
    before = attributes.snapshot(made)
    with pytest.raises(ManifestError, match=r"cannot tell what .*nothing to see"):
        attributes.changes(made, before)


def test_changed_tables_of_all_models_are_not_this_models() -> None:
    config = type("CompilationConfig", (), {"__module__": "vllm.config.compilation"})()
    config.static_forward_context = {"a": nn.Linear(2, 2)}
    made = model()
    made.config = config
    before = attributes.snapshot(made)
    nn.init.ones_(config.static_forward_context["a"].weight)
    assert attributes.changes(made, before) == {}


@pytest.mark.parametrize(
    "path",
    [
        "gone.scale",
        "inner.weight",
        "inner",
        "forward",
        "inner.__class__",
        "_modules",
        "inner._buffers",
        "inner._forward_hooks",
        "computed",
        "lazy",
        "inner.method",
        "inner.method.kernel",
        "inner.method.kernel.other",
        "inner.method.named.kernel",
        "inner.weight.data",
        "inner.weight.loader",
        "tensor",
        "mode",
        "hook.__code__",
        "",
        "inner.",
    ],
)
def test_nothing_but_plain_attributes_is_overwritten(path: str) -> None:
    made = model()
    with pytest.raises(ManifestError, match="the source set"):
        attributes.apply(made, {"scale": 3.0, path: 1})
    assert made.scale == 1.0


@pytest.mark.parametrize("same", [{}, {"a": math.nan}, {"a": -0.0, "b": "x"}, {"a": {"x", "y"}}])
def test_sources_that_agree_do_not_differ(same: dict[str, attributes.Plain]) -> None:
    assert attributes.difference(same, plain.decode(plain.encode(same))) is None


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, "b: 1, 2"),
        ({"a": 1}, {"a": 1.0}, "a: 1, 1.0"),
        ({"a": 0.0}, {"a": -0.0}, "a: 0.0, -0.0"),
        ({}, {"a": None}, "a: nothing, None"),
        ({"a": "nothing"}, {}, "a: 'nothing', nothing"),
        ({"a": "x" * 2048}, {"a": ""}, "a: '" + 99 * "x" + ", ''"),
        ({"a": {2, 1}}, {"a": {1}}, "a: set({1, 2}), set({1})"),
        ({"a": {True}}, {"a": {1}}, "a: set({True}), set({1})"),
        ({"a": [1]}, {"a": (1,)}, "a: [1], (1,)"),
        ({"a": {1: 2, 3: 4}}, {"a": {3: 4, 1: 2}}, "a: {1: 2, 3: 4}, {3: 4, 1: 2}"),
    ],
)
def test_the_first_difference_between_sources_is_named(
    one: dict[str, attributes.Plain], other: dict[str, attributes.Plain], said: str
) -> None:
    assert attributes.difference(one, other) == said


def test_large_model_costs_little() -> None:
    """60 layers with fused experts. Some 10 ms on a free machine, 50 on a slow one."""
    made = nn.Module()
    made.layers = nn.ModuleList(nn.ModuleList(Inner() for _ in range(5)) for _ in range(60))
    for layer in made.layers.modules():
        layer.experts = {at: at for at in range(256)}  # type: ignore[assignment]
    started = time.process_time()
    assert attributes.changes(made, attributes.snapshot(made)) == {}
    assert time.process_time() - started < 3
