"""Who loads what and from whom: what is told is shown, and what cannot be true is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import holding, member

from mesh_inspect.view.rows import MAX_COUNT, rows_of
from mesh_inspect.view.transfers import MAX_LEFT_S, MAX_RATE, Load, LoadState, transfers_of
from netloader.discovery.advert import Feed, Holding
from netmesh import Generation, JsonObject, Member, Status

GIB = 1 << 30


def at(number: int, *held: Holding, status: Status = Status.ALIVE) -> Member:
    one = member(*held, id=f"10.0.0.{number}:17946", status=status)
    return replace(one, generation=Generation(number))


def held(number: int, **changes: Any) -> Holding:
    return holding("org/a", **{"endpoint": f"10.0.0.{number}:31000", **changes})


def loading(number: int, **changes: Any) -> Holding:
    return held(number, **{"state": "loading", "total": 8 * GIB, "held": 2 * GIB, **changes})


def feed(number: int, generation: int | None = None, nbytes: int = 0, rate: int = 0) -> Feed:
    return Feed(
        endpoint=f"10.0.0.{number}:31000",
        generation=number if generation is None else generation,
        nbytes=nbytes,
        rate=rate,
    )


def only(*members: Member) -> Load:
    (load,) = transfers_of(rows_of(members)).loads
    return load


def test_a_pull_names_its_sources_the_fastest_first_and_the_time_left() -> None:
    feeds = (feed(2, nbytes=GIB // 2, rate=100 << 20), feed(3, nbytes=3 * GIB // 2, rate=924 << 20))
    load = only(at(1, loading(1, pulling=2, rate=GIB, feeds=feeds)), at(2, held(2)), at(3, held(3)))
    assert (load.state, load.rate, load.left_s) == (LoadState.PULLING, GIB, 6.0)
    assert [(edge.id, edge.nbytes, edge.rate) for edge in load.edges] == [
        ("10.0.0.3:17946", 3 * GIB // 2, 924 << 20),
        ("10.0.0.2:17946", GIB // 2, 100 << 20),
    ]


def test_only_what_loads_is_listed() -> None:
    members = [at(1, held(1)), at(2, held(2, state="unavailable", feeds=(feed(1),))), at(3)]
    assert transfers_of(rows_of(members)).loads == ()


def test_a_source_that_the_mesh_does_not_know_is_shown_by_its_endpoint() -> None:
    listed, restarted = feed(9, generation=0, nbytes=7, rate=3), feed(2, generation=1, rate=2)
    load = only(at(1, loading(1, rate=5, feeds=(listed, restarted))), at(2, held(2)))
    assert [(edge.id, edge.name, edge.condition, edge.rate) for edge in load.edges] == [
        (None, "10.0.0.9:31000", "unknown", 3),
        (None, "10.0.0.2:31000", "unknown", 2),
    ]


@pytest.mark.parametrize("status", [Status.DEAD, Status.STALLED, Status.LEFT])
def test_a_source_in_trouble_is_shown_as_what_it_is(status: Status) -> None:
    load = only(at(1, loading(1, rate=5, feeds=(feed(2, rate=5),))), at(2, held(2), status=status))
    assert [edge.condition for edge in load.edges] == [status.name.lower()]


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, LoadState.STARTING),
        ({"awaits": ("10.0.0.7:17946",)}, LoadState.WAITING),
        ({"storage": "able"}, LoadState.STARTING),
        ({"storage": "reading", "rate": 9}, LoadState.READING),
        ({"storage": "reading", "feeds": (feed(2),)}, LoadState.READING),
        ({"feeds": (feed(2),)}, LoadState.IDLE),
        ({"feeds": (feed(2, rate=9),), "rate": 9}, LoadState.PULLING),
        ({"pulling": 2, "rate": 9}, LoadState.PULLING),
        ({"pulling": 2, "awaits": ("10.0.0.7:17946",)}, LoadState.PULLING),
        ({"held": 8 * GIB, "feeds": (feed(2),)}, LoadState.FINISHING),
    ],
)
def test_the_state_of_a_load(told: dict[str, Any], state: LoadState) -> None:
    assert only(at(1, loading(1, **told)), at(2, held(2))).state is state


@pytest.mark.parametrize("status", [one for one in Status if one is not Status.ALIVE])
def test_of_a_member_that_is_not_alive_the_figures_are_old(status: Status) -> None:
    told = loading(1, rate=GIB, feeds=(feed(2, nbytes=5, rate=GIB),))
    load = only(at(1, told, status=status), at(2, held(2)))
    assert (load.state.value, load.rate, load.left_s) == (status.name.lower(), None, None)
    assert [(edge.nbytes, edge.rate) for edge in load.edges] == [(5, None)]
    assert load.row.held == 2 * GIB


def test_a_release_that_says_no_rates_has_none() -> None:
    load = only(at(1, loading(1, pulling=3)))
    assert (load.state, load.rate, load.left_s) == (LoadState.PULLING, None, None)


def test_who_waits_names_for_whom() -> None:
    names = ("10.0.0.7:17946", "10.0.0.1:17946", "10.0.0.7:17946", "10.0.0.8:17946")
    assert only(at(1, loading(1, awaits=names))).awaits == ("10.0.0.7:17946", "10.0.0.8:17946")


def test_nobody_pulls_from_itself_or_twice_from_one_process() -> None:
    feeds = (feed(1), feed(1, generation=5), feed(2, rate=1), feed(2, rate=7), feed(2, rate=3))
    assert [edge.rate for edge in only(at(1, loading(1, feeds=feeds)), at(2, held(2))).edges] == [7]


def test_the_whole_is_the_sum_of_what_moves() -> None:
    members = [
        at(1, loading(1, rate=3, feeds=(feed(3, rate=3),))),
        at(2, loading(2, rate=4, feeds=(feed(3, rate=2), feed(4, rate=2)))),
        at(3, held(3)),
        at(5, loading(5, rate=99), status=Status.DEAD),
    ]
    transfers = transfers_of(rows_of(members))
    assert transfers.rate == 7
    assert [edge.name for edge in transfers.edges] == [
        *("10.0.0.3:17946", "10.0.0.3:17946", "10.0.0.4:31000"),
    ]


def test_that_members_grow_older_is_no_news() -> None:
    before = transfers_of(rows_of([at(1, loading(1, rate=3)), at(2, loading(2))]))
    older = replace(at(1, loading(1, rate=3)), age_s=500.0)
    after = transfers_of(rows_of([older, at(2, loading(2, held=3 * GIB))]))
    assert [load.row.member.id for load in after.since(before).loads] == ["10.0.0.2:17946"]
    assert after.since(after).loads == ()
    assert after.news == after.news != before.news


def test_a_choice_of_loads_still_finds_their_sources() -> None:
    members = [at(1, loading(1, feeds=(feed(2),))), at(2, held(2)), at(3, loading(3))]
    rows = rows_of(members)
    (load,) = transfers_of(rows, lambda row: row.member.id == "10.0.0.1:17946").loads
    assert [edge.id for edge in load.edges] == ["10.0.0.2:17946"]


@pytest.mark.parametrize(
    ("told", "rate", "left_s"),
    [
        ({"rate": 1 << 63, "feeds": (feed(2, rate=1 << 63, nbytes=1 << 63),)}, None, None),
        ({"rate": MAX_RATE}, MAX_RATE, 6 * GIB / MAX_RATE),
        ({"rate": 1}, 1, None),
        ({"total": 1, "held": 1 << 63, "rate": 7}, 7, 0.0),
        ({"total": 1 << 70, "held": 0, "rate": 7}, 7, None),
        ({"total": 0, "held": 5, "rate": 7}, 7, None),
    ],
)
def test_figures_that_cannot_be_true_are_unknown(
    told: dict[str, Any], rate: int | None, left_s: float | None
) -> None:
    load = only(at(1, loading(1, **told)), at(2, held(2)))
    assert (load.rate, load.left_s) == (rate, left_s)
    assert all(edge.nbytes <= 8 * GIB and edge.rate is None for edge in load.edges)


counts = st.integers(0, 1 << 64) | st.sampled_from([0, 1, 8 * GIB, MAX_RATE, 1 << 63, 1 << 300])
numbers = st.integers(0, 4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
feeds_told = st.lists(
    st.fixed_dictionaries(
        {
            "endpoint": numbers.map("10.0.0.{}:31000".format) | st.text(),
            "generation": numbers | st.integers(0, (1 << 64) - 1),
        },
        optional={"nbytes": counts | scalars, "rate": counts | scalars},
    ),
    max_size=16,
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "rate": counts | scalars,
        "feeds": feeds_told,
        "awaits": st.lists(numbers.map("10.0.0.{}:17946".format) | st.text(), max_size=8),
        "total": counts,
        "held": counts,
        "pulling": counts,
        "storage": st.sampled_from(["", "able", "reading"]),
        "state": st.sampled_from(["loading", "ready"]),
    },
)


PLAIN = {number: loading(number).model_dump(mode="json") for number in range(5)}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, st.sampled_from(list(Status)), changes), max_size=3))
def test_no_advert_makes_nonsense(told: list[tuple[int, Status, JsonObject]]) -> None:
    members = [
        replace(
            at(number, status=status),
            advert={"holdings": [PLAIN[number] | change]},
        )
        for number, status, change in told
    ]
    transfers = transfers_of(rows_of(members))
    assert 0 <= transfers.rate <= MAX_RATE * len(told)
    for load in transfers.loads:
        assert load.rate is None or 0 <= load.rate <= MAX_RATE
        assert load.left_s is None or 0 <= load.left_s < MAX_LEFT_S
        assert len(load.edges) <= 16 and len(load.awaits) <= 8
        assert load.row.member.id not in load.awaits
        assert load.row.member.id not in {edge.id for edge in load.edges}
        for edge in load.edges:
            assert 0 <= edge.nbytes <= MAX_COUNT
            assert edge.rate is None or 0 <= edge.rate <= MAX_RATE
        assert len({(edge.endpoint, edge.generation) for edge in load.edges}) == len(load.edges)
        assert load.rate is None or load.row.member.status is Status.ALIVE
