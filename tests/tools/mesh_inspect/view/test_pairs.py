"""Whether one member could feed another is judged as a replica would, with the reason in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import ALONE, holding, member

from mesh_inspect.view.pairs import fitness
from netloader.discovery.advert import Holding
from netmesh import JsonObject, MeshSettings, Status

HERE = MeshSettings()


def held(**changes: Any) -> Holding:
    return holding("org/a", **{"transports": ("tcp",), **changes})


REPLICA = member(held(state="loading", endpoint="10.0.0.2:31000"), id="10.0.0.2:17946")


def test_a_source_of_the_same_weights_fits() -> None:
    (one,) = fitness(REPLICA, member(held()), HERE)
    assert (one.model, one.role, one.place, one.fits, one.reasons) == (
        *("org/a", "target", ALONE, True),
        (),
    )


def test_what_differs_is_named() -> None:
    other = member(held(place=replace(ALONE, tp_size=2)))
    assert [one.reasons for one in fitness(REPLICA, other, HERE)] == [
        ("tp_size: mine 1, theirs 2",)
    ]
    assert [one.reasons for one in fitness(member(held()), REPLICA, HERE)] == [("is loading",)]
    dead = member(held(), status=Status.DEAD)
    assert [one.reasons for one in fitness(REPLICA, dead, HERE)] == [("is dead",)]
    (one,) = fitness(REPLICA, member(), HERE)
    assert (one.fits, one.reasons) == (False, ("holds no target model",))


def test_each_model_of_the_replica_is_judged() -> None:
    draft = held(role="draft")
    draft = draft.changed(fields={**draft.fields, "role": "draft"})
    found = fitness(member(held(), draft), member(held(), id="10.0.0.3:1"), HERE)
    assert [(one.role, one.fits) for one in found] == [("target", True), ("draft", False)]
    assert fitness(member(), member(held()), HERE) == ()


def test_a_label_of_a_network_keeps_them_apart() -> None:
    one, other = member(held(fabric="a")), member(held(fabric="b"), id="10.0.0.3:1")
    (judged,) = fitness(one, other, HERE)
    assert not judged.fits and "FABRIC" in judged.reasons[0]


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(), scalars)
names = st.sampled_from(sorted(held().model_dump()))


@settings(max_examples=100)
@given(st.dictionaries(names, json_values), st.dictionaries(names, json_values), st.text())
def test_no_advert_makes_it_fail(mine: JsonObject, theirs: JsonObject, id: str) -> None:
    replica, source = (
        member(raw={"holdings": [held().model_dump(mode="json") | changes]}, id=name)
        for changes, name in ((mine, id), (theirs, "10.0.0.3:1"))
    )
    for one in fitness(replica, source, HERE):
        assert one.fits == (not one.reasons)
