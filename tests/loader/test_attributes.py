from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from netloader import attributes
from netloader.errors import ManifestError


class Inner(nn.Linear):
    fresh: object
    table: object


class Model(nn.Module):
    todo: object
    text: object

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner(2, 2)
        self.scale: object = 1.0


def model() -> Model:
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
    assert attributes.changes(made, before) == {}


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), torch.zeros(1), (1, 2)])
def test_anything_else_cannot_travel(value: object) -> None:
    made = model()
    before = attributes.snapshot(made)
    made.inner.table = value
    with pytest.raises(ManifestError, match=r"set inner\.table to a"):
        attributes.changes(made, before)


@pytest.mark.parametrize("value", [[], {}, set()])
def test_used_up_work_list_is_no_change(value: object) -> None:
    made = model()
    before = attributes.snapshot(made)
    made.todo = value
    assert attributes.changes(made, before) == {}


def test_text_that_is_too_long_cannot_travel() -> None:
    made = model()
    before = attributes.snapshot(made)
    made.text = "x" * 5000
    with pytest.raises(ManifestError, match="5000 characters"):
        attributes.changes(made, before)


@pytest.mark.parametrize(
    "path", ["gone.scale", "inner.weight", "inner", "forward", "inner.__class__", "_modules"]
)
def test_nothing_but_plain_attributes_is_overwritten(path: str) -> None:
    made = model()
    with pytest.raises(ManifestError, match="the source set"):
        attributes.apply(made, {"scale": 3.0, path: 1})
    assert made.scale == 1.0


@pytest.mark.parametrize("same", [{}, {"a": math.nan}, {"a": -0.0, "b": "x"}, {"a": None}])
def test_sources_that_agree_do_not_differ(same: dict[str, attributes.Scalar]) -> None:
    assert attributes.difference(same, dict(same)) is None


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "b": 2}, "b: 1, 2"),
        ({"a": 1}, {"a": 1.0}, "a: 1, 1.0"),
        ({"a": 0.0}, {"a": -0.0}, "a: 0.0, -0.0"),
        ({}, {"a": None}, "a: nothing, None"),
        ({"a": "x" * 2048}, {"a": ""}, "a: '" + 99 * "x" + ", ''"),
    ],
)
def test_the_first_difference_between_sources_is_named(
    one: dict[str, attributes.Scalar], other: dict[str, attributes.Scalar], said: str
) -> None:
    assert attributes.difference(one, other) == said
