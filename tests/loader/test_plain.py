from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netloader import plain
from netloader.errors import ManifestError
from netloader.plain import Plain

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
HASHABLE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
PLAIN: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.sets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_what_is_written_is_read_with_the_same_types(value: Plain) -> None:
    text = json.dumps(plain.encode({"x": value}))
    read = plain.decode(json.loads(text))
    assert plain.difference({"x": value}, read) is None
    assert type(read["x"]) is type(value)
    assert json.dumps(plain.encode(read)) == text


@given(PLAIN, PLAIN)
def test_other_values_are_spelled_and_written_otherwise(one: Plain, other: Plain) -> None:
    written = [json.dumps(plain.encode({"x": value})) for value in (one, other)]
    assert (plain.spell(one) == plain.spell(other)) == (written[0] == written[1])


@given(PLAIN)
def test_a_copy_equals_and_shares_no_container(value: Plain) -> None:
    copy = plain.copied(value, "x")
    assert plain.spell(copy) == plain.spell(value)
    assert not isinstance(value, (list, dict, set)) or copy is not value


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {"x": {}},
        {"x": {"set": 1}},
        {"x": {"set": [], "list": []}},
        {"x": {"list": []}},
        {"x": {"set": [1, 1]}},
        {"x": {"set": [1, True]}},
        {"x": {"frozenset": [0.0, -0.0]}},
        {"x": {"set": [[]]}},
        {"x": {"set": [{"tuple": [[]]}]}},
        {"x": {"dict": [[1]]}},
        {"x": {"dict": [["a", 1], ["a", 2]]}},
        {"x": {"dict": [[[], 1]]}},
        {"x": {"dict": {"a": 1}}},
        {"x": 1 << 5000},
        {"x": "y" * 2049},
        {"x": [[[[[[[[[1]]]]]]]]]},
        {"x": [0] * 10_001},
        {"x": [[0] * 5_000] * 2},
        {"x": ["y" * 2048] * 600},
        {"x": "\ud800"},
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        plain.decode(value)
    assert len(str(caught.value)) < 200


def test_what_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(ManifestError, match="deeper than 8"):
        plain.copied(loop, "x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, object()], r"set x\[1\] to a object"),
        ({"a": {1: object}}, r"set x\['a'\]\[1\] to a type"),
        ({(1,): 2, math: 1}, r"set a key of x to a module"),
        (type("Name", (str,), {})("x"), "set x to a Name"),
        (type("Pair", (tuple,), {})(), "set x to a Pair"),
    ],
)
def test_the_part_that_is_no_plain_data_is_named(value: object, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        plain.copied(value, "x")
    assert not plain.is_plain(value)
