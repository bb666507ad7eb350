"""Rows from members: what is shown of good adverts, and that bad ones do no harm."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import ALONE, GENERATION, holding, member

from mesh_inspect.view.rows import MAX_COUNT, HoldingRow, RankPlace, rows_of
from netloader.discovery.advert import Accused
from netmesh import JsonObject, Status


def only(rows: tuple[HoldingRow, ...]) -> HoldingRow:
    (row,) = rows
    return row


def test_a_row_for_each_holding_and_one_for_a_member_without() -> None:
    worker = member(holding("target"), holding("draft", role="draft"), id="a:1")
    rows = rows_of([worker, member(id="b:1")])
    assert [(row.member.id, row.model) for row in rows] == [
        ("b:1", None),
        ("a:1", "draft"),
        ("a:1", "target"),
    ]


def test_a_row_tells_place_and_weights() -> None:
    place = replace(ALONE, tp_size=4, tp_rank=3, pp_size=2, pp_rank=1, ep_size=8, ep_rank=7)
    row = only(rows_of([member(holding("m", place, serving=2, pulling=1))]))
    assert row.place == RankPlace(4, 3, 2, 1, 8, 7)
    assert row.weights_layout == "checkpoint"
    assert (row.nbytes, row.serving, row.pulling) == (3 << 29, 2, 1)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("state", ["loading", "ready", "unavailable"])
def test_ready_means_that_it_may_be_asked(status: Status, state: str) -> None:
    row = only(rows_of([member(holding(state=state), status=status)]))
    assert row.ready == (status is Status.ALIVE and state == "ready")
    assert row.condition == (state if status is Status.ALIVE else status.name.lower())


def test_a_member_without_a_holding_is_what_the_mesh_says_of_it() -> None:
    row = only(rows_of([member(status=Status.STALLED)]))
    assert (row.condition, row.ready, row.nbytes) == ("stalled", False, 0)
    assert row.place == RankPlace()


def test_rows_are_ordered_by_model_and_rank_and_the_gone_come_last() -> None:
    ranks = [(1, 0), (0, 1), (0, 0)]
    members = [member(holding("a"), id="z:1", status=Status.DEAD)]
    for number, (pp, tp) in enumerate(ranks):
        place = replace(ALONE, tp_size=2, tp_rank=tp, pp_size=2, pp_rank=pp)
        members.append(member(holding("b", place), id=f"h:{number + 1}"))
    rows = rows_of(members)
    assert [(row.place.pp_rank, row.place.tp_rank) for row in rows[:3]] == sorted(ranks)
    assert rows[3].member.id == "z:1"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, {"org/a", "org/b[1]", None}),
        ("org/a", {"org/a"}),
        ("org/*", {"org/a", "org/b[1]"}),
        ("org/b[1]", {"org/b[1]"}),
        ("ORG/A", set()),
        ("org", set()),
        ("", set()),
    ],
)
def test_the_filter_takes_names_and_patterns(wanted: str | None, found: set[str | None]) -> None:
    members = [member(holding("org/a"), holding("org/b[1]")), member(id="b:1")]
    assert {row.model for row in rows_of(members, wanted)} == found


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"holdings": None},
        {"holdings": "x"},
        {"holdings": {"role": "target"}},
        {"holdings": [None, 1, "x", [], {}]},
        {"holdings": [{"role": "spy"}]},
    ],
)
def test_a_malformed_advert_is_a_member_without_holding(raw: JsonObject) -> None:
    assert only(rows_of([member(raw=raw)])).holding is None


def test_fields_that_make_no_sense_are_unknown() -> None:
    fields = {"layout": 1, "tp_size": "two", "tp_rank": -1, "pp_size": 10**30}
    row = only(rows_of([member(holding(fields=fields, names={"x": "y"}, nbytes=10**300))]))
    assert (row.model, row.weights_layout, row.place) == (None, None, RankPlace())
    assert row.nbytes == MAX_COUNT


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(), scalars)
names = st.sampled_from(sorted(holding().model_dump()))


@settings(max_examples=50)
@given(st.dictionaries(names, json_values))
def test_no_advert_makes_it_fail(changes: JsonObject) -> None:
    raw: JsonObject = {"holdings": [holding().model_dump(mode="json") | changes]}
    row = only(rows_of([member(raw=raw)]))
    assert isinstance(row.ready, bool)
    assert row.nbytes >= 0


def test_an_accused_source_is_shown_as_such() -> None:
    accused = Accused(endpoint="a:31000", generation=int(GENERATION))
    liar = member(holding(endpoint="a:31000"), id="a:1")
    accuser = member(holding(endpoint="b:31000", accuses=(accused,)), id="b:1")
    rows = {row.member.id: row for row in rows_of([liar, accuser])}
    assert (rows["a:1"].accusers, rows["a:1"].condition) == (1, "accused")
    assert (rows["b:1"].accusers, rows["b:1"].condition) == (0, "ready")


def test_accusations_of_another_generation_or_by_the_dead_do_not_count() -> None:
    earlier = Accused(endpoint="a:31000", generation=1)
    accused = Accused(endpoint="a:31000", generation=int(GENERATION))
    rows = rows_of(
        [
            member(holding(endpoint="a:31000"), id="a:1"),
            member(holding(endpoint="b:31000", accuses=(earlier,)), id="b:1"),
            member(holding(endpoint="c:1", accuses=(accused,)), id="c:1", status=Status.DEAD),
        ]
    )
    assert {row.accusers for row in rows} == {0}
