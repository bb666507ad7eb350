from __future__ import annotations

from tests.loader.discovery.test_advert import accused, holding

from netloader.discovery import advert
from netloader.discovery.accusations import accusers
from netloader.discovery.advert import Accused, Holding
from netmesh import Generation, Member, MemberId, Status

CULPRIT = ("10.0.0.2:2000", 7)


def says(
    *accuses: Accused, status: Status = Status.ALIVE, **held: object
) -> tuple[Member, tuple[Holding, ...]]:
    made = (holding(accuses=accuses, **held),)
    generation = Generation(1)
    return Member(
        MemberId("10.0.0.9:1"), generation, 0, status, 0, advert.encode(made), 1.0, False
    ), made


def test_a_member_counts_once_for_each_process_that_it_accuses() -> None:
    found = accusers([says(accused(7), accused(7), accused(8)), says(accused(7)), says()])
    assert found == {CULPRIT: 2, ("10.0.0.2:2000", 8): 1}


def test_a_member_accuses_with_any_of_its_models() -> None:
    member, target = says(accused(7))
    _, draft = says(accused(7), accused(9), role="draft")
    assert accusers([(member, target + draft)]) == {CULPRIT: 1, ("10.0.0.2:2000", 9): 1}


def test_a_member_that_is_gone_does_not_count() -> None:
    assert accusers([says(accused(7), status=Status.DEAD)]) == {}


def test_a_process_does_not_accuse_itself() -> None:
    assert accusers([says(accused(7), endpoint=CULPRIT[0])]) == {}
