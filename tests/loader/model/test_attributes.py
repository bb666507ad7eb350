"""Plain attributes that `load_weights` has changed travel."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import pytest
from tests.loader.model.attributed import Inner, Model, Shape, model
from torch import nn

from netloader import plain
from netloader.model import attributes


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


def test_changed_tables_of_all_models_are_not_this_models() -> None:
    config = type("CompilationConfig", (), {"__module__": "vllm.config.compilation"})()
    config.static_forward_context = {"a": nn.Linear(2, 2)}
    made = model()
    made.config = config
    before = attributes.snapshot(made)
    nn.init.ones_(config.static_forward_context["a"].weight)
    assert attributes.changes(made, before) == {}


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
