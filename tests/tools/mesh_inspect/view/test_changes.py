"""What happened between two looks, in words, and which entries a reader has to replace."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.tools.mesh_inspect.support import GENERATION, holding, member

from mesh_inspect.view.changes import KINDS, by_member, difference, happenings
from mesh_inspect.view.entries import entries_of
from mesh_inspect.view.rows import rows_of
from netloader.discovery.advert import Accused, Feed
from netmesh import Generation, Member, Status

HELD = holding("org/a", endpoint="10.0.0.1:31000")
ONE = member(HELD)
LATER = Generation(GENERATION + (60_000 << 22))


def told(before: list[Member], after: list[Member]) -> list[tuple[str, str]]:
    found = happenings(rows_of(before), rows_of(after), 5.0)
    assert all(one.at == 5.0 and one.kind in KINDS for one in found)
    return [(one.kind, f"{one.id} {one.text}") for one in found]


def test_age_alone_is_no_change() -> None:
    older = replace(ONE, age_s=ONE.age_s + 1)
    assert told([ONE], [older]) == []
    before, after = (by_member(entries_of(rows_of([one]))) for one in (ONE, older))
    assert not difference(before, after)


@pytest.mark.parametrize(
    ("before", "after", "kind", "text"),
    [
        (Status.ALIVE, Status.STALLED, "stalled", "is silent, but its kernel accepts connections"),
        (Status.STALLED, Status.SUSPECT, "suspect", "does not answer"),
        (Status.SUSPECT, Status.ALIVE, "back", "answers again"),
        (Status.SUSPECT, Status.DEAD, "died", "is dead"),
        (Status.ALIVE, Status.LEFT, "left", "left the mesh"),
        (Status.DEAD, Status.LEFT, "left", "left the mesh"),
    ],
)
def test_a_verdict_is_told_once(before: Status, after: Status, kind: str, text: str) -> None:
    was, now = replace(ONE, status=before), replace(ONE, status=after)
    assert told([was], [now]) == [(kind, f"10.0.0.1:17946 {text}")]
    assert told([now], [now]) == []


def test_a_member_joins_with_what_it_holds() -> None:
    loads = member(holding("org/a", state="loading", storage="reading"))
    assert told([], [loads]) == [
        ("joined", "10.0.0.1:17946 joined"),
        ("loading", "10.0.0.1:17946 loads org/a (target, tp0/1)"),
        ("reading", "10.0.0.1:17946 reads org/a (target, tp0/1) from storage"),
    ]
    assert told([], [member()]) == [("joined", "10.0.0.1:17946 joined")]


def test_the_states_of_a_holding() -> None:
    loads = member(holding("org/a", state="loading"))
    ready = member(holding("org/a", origin="peers"))
    gone = member(holding("org/a", state="unavailable", reason="reloaded"))
    assert [kind for kind, _ in told([loads], [ready])] == ["ready"]
    assert told([loads], [ready])[0][1].endswith(
        "is ready to serve org/a (target, tp0/1), 1.5GiB from peers"
    )
    assert told([ready], [gone])[0] == (
        "unavailable",
        "10.0.0.1:17946 cannot hand out org/a (target, tp0/1): reloaded",
    )
    assert told([ready], [member()]) == [
        ("dropped", "10.0.0.1:17946 holds org/a (target, tp0/1) no more")
    ]


def test_another_process_at_an_address_is_told_as_such() -> None:
    loads = replace(member(holding("org/a", state="loading")), generation=LATER)
    for status in (Status.ALIVE, Status.DEAD):
        assert [kind for kind, _ in told([replace(ONE, status=status)], [loads])] == [
            "restarted",
            "loading",
        ]
    assert "started 1m00s after" in told([ONE], [loads])[0][1]


def test_what_was_over_before_it_was_seen_is_no_news() -> None:
    dead = replace(ONE, status=Status.DEAD)
    assert told([], [dead]) == []
    assert [kind for kind, _ in told([ONE], [replace(dead, generation=LATER)])] == ["died"]
    assert told([dead], []) == [("forgotten", "10.0.0.1:17946 was dead, and is not shown any more")]


def test_an_accusation_is_told() -> None:
    accused = Accused(endpoint="10.0.0.1:31000", generation=int(GENERATION))
    other = member(holding("b", endpoint="10.0.0.2:1", accuses=(accused,)), id="10.0.0.2:1")
    quiet = member(holding("b", endpoint="10.0.0.2:1"), id="10.0.0.2:1")
    assert told([ONE, quiet], [ONE, other]) == [
        ("accused", "10.0.0.1:17946 sent wrong bytes of org/a (target, tp0/1), say 1 member")
    ]
    assert told([ONE, other], [ONE, quiet]) == []


def test_a_change_of_any_entry_replaces_all_of_its_member() -> None:
    def grouped(*members: Member) -> dict[str, list[dict[str, object]]]:
        return dict(by_member(entries_of(rows_of(members))))

    feed = Feed(endpoint="10.0.0.1:31000", generation=int(GENERATION), nbytes=1, rate=2)

    def pulling(rate: int) -> Member:
        loads = holding(
            "org/a",
            state="loading",
            endpoint="10.0.0.2:31000",
            feeds=(feed.model_copy(update={"rate": rate}),),
        )
        return member(loads, holding("b", role="draft", endpoint=""), id="10.0.0.2:1")

    two, faster = pulling(2), pulling(3)
    found = difference(grouped(ONE, two), grouped(ONE, faster))  # type: ignore[arg-type]
    assert (found.changed, found.gone) == (("10.0.0.2:1",), ())
    found = difference(grouped(ONE, two), grouped(two))  # type: ignore[arg-type]
    # Nobody is known any more by what it says of its source.
    assert (found.changed, found.gone) == (("10.0.0.2:1",), ("10.0.0.1:17946",))
    (fed,) = grouped(ONE, two)["10.0.0.2:1"][1]["feeds"]  # type: ignore[misc]
    assert fed["id"] == "10.0.0.1:17946"
