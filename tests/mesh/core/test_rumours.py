from collections import Counter

from netmesh.core.claims import Claim
from netmesh.core.fields import claim_bytes
from netmesh.core.records import Generation, MemberId, Status
from netmesh.core.rumours import Rumours


def claim(index: int, status: Status = Status.ALIVE, incarnation: int = 0) -> Claim:
    return Claim(MemberId(f"10.0.0.{index}:17946"), Generation(1), incarnation, status, 1)


def test_a_rumour_is_told_as_often_as_the_limit_says() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1))
    told = 0
    while rumours.take(1000, 1, 8):
        told += 1
    assert told == 8 and len(rumours) == 0


def test_hearing_it_from_others_shortens_its_life() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1))
    for _ in range(8):
        rumours.heard(claim(1), 8)
    assert rumours.take(1000, 1, 8) == ()


def test_verdicts_and_refutations_are_told_on_however_often_they_were_heard() -> None:
    """When all tellers of a death stop early, somebody never hears of it."""
    for told in (claim(1, Status.DEAD), claim(1, Status.ALIVE, incarnation=1)):
        rumours = Rumours(10, Counter())
        rumours.add(told)
        for _ in range(8):
            rumours.heard(told, 8)
        assert rumours.take(1000, 1, 8) == (told,)


def test_hearing_something_older_changes_nothing() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1, incarnation=2))
    for _ in range(9):
        rumours.heard(claim(1, incarnation=1), 8)
    assert len(rumours) == 1


def test_newer_news_of_a_member_replaces_older() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1, Status.SUSPECT))
    rumours.add(claim(1, incarnation=1))
    assert rumours.take(1000, 1, 8) == (claim(1, incarnation=1),)


def test_refutations_go_before_bad_news_and_new_before_old() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1))
    rumours.add(claim(2, Status.DEAD))
    rumours.add(claim(3))
    assert [c.id[7] for c in rumours.take(1000, 1, 8)] == ["3", "1", "2"]


def test_what_was_told_least_goes_first() -> None:
    rumours = Rumours(10, Counter())
    rumours.add(claim(1))
    rumours.take(1000, 3, 8)
    rumours.add(claim(2))
    size = claim_bytes(claim(2))
    assert rumours.take(size, 1, 8) == (claim(2),)


def test_a_message_never_exceeds_its_budget() -> None:
    rumours = Rumours(100, Counter())
    for index in range(50):
        rumours.add(claim(index))
    taken = rumours.take(1000, 1, 8)
    assert 0 < sum(map(claim_bytes, taken)) <= 1000


def test_a_full_queue_drops_what_was_told_most() -> None:
    counters: Counter[str] = Counter()
    rumours = Rumours(2, counters)
    rumours.add(claim(1))
    rumours.take(1000, 3, 8)
    rumours.add(claim(2))
    rumours.add(claim(3))
    assert len(rumours) == 2 and counters["dropped.rumour_limit"] == 1
    assert {c.id for c in rumours.take(1000, 1, 8)} == {claim(2).id, claim(3).id}
