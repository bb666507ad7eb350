"""Selectors as kubectl has them, and sorting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import holding, member

from mesh_inspect.view.keys import KEYS, SelectorError, ordered, selected, selector
from mesh_inspect.view.rows import rows_of
from netmesh import Status

ROWS = rows_of(
    [
        member(holding("org/a", transports=("hccl", "tcp"), serving=3), id="10.0.0.1:1"),
        member(holding("org/b[1]", state="loading", fabric="rail-1"), id="10.0.0.2:1"),
        member(holding("org/c"), id="10.0.0.3:1", status=Status.STALLED),
        member(id="10.0.0.4:1"),
    ]
)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", "1234"),
        ("model=org/a", "1"),
        ("model==org/a", "1"),
        ("model=org/*", "123"),
        ("model=org/b[1]", "2"),
        ("model!=org/a", "234"),
        ("host in (10.0.0.1, 10.0.0.4)", "14"),
        ("host notin (10.0.0.1,10.0.0.4)", "23"),
        ("ready=true", "1"),
        ("ready=false,status=alive", "24"),
        ("state in (ready,loading),status!=stalled", "12"),
        ("transport=tcp", "1"),
        ("transport!=tcp", "234"),
        ("fabric=", ""),
        ("fabric!=rail-1", "134"),
        ("tp_rank=0", "123"),
        ("serving=3", "1"),
        ("condition=stalled", "3"),
        (" model = org/a , ready = true ", "1"),
    ],
)
def test_a_selector_keeps_the_rows_for_which_it_holds(text: str, hosts: str) -> None:
    found = selected(ROWS, selector(text))
    assert sorted(row.member.host for row in found) == [f"10.0.0.{number}" for number in hosts]


@pytest.mark.parametrize(
    "text",
    [
        "model",
        "=x",
        "model=a b(",
        "model in a",
        "model in (a",
        "colour=red",
        "model=a,,",
        ",",
        "a=b",
    ],
)
def test_what_cannot_be_read_is_told_with_what_can(text: str) -> None:
    with pytest.raises(SelectorError, match=r"key=value|there is no key .*, only id, host"):
        selector(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        requirements = selector(text)
    except SelectorError:
        return
    selected(ROWS, requirements)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_selects_and_sorts(key: str) -> None:
    for by in (key, f"-{key}"):
        assert sorted(map(id, ordered(ROWS, by, KEYS))) == sorted(map(id, ROWS))
    selected(ROWS, selector(f"{key}=x"))


def test_rows_without_a_value_come_last_either_way() -> None:
    for by, first in (("model", "org/a"), ("-model", "org/c")):
        found = ordered(ROWS, by, KEYS)
        assert (found[0].model, found[-1].model) == (first, None)
    assert ordered(ROWS, "-serving", KEYS)[0].model == "org/a"
