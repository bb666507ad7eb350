import pytest

from netmesh.core.records import Generation, MemberId, Record, Status, pack_advert
from netmesh.core.settings import ProtocolSettings
from netmesh.core.suspicion import Suspicions, timeout_s

SETTINGS = ProtocolSettings()
X, ME, A, B, C = (MemberId(f"10.0.0.{i}:1") for i in range(5))
SUSPECT = Record(X, Generation(1), 0, Status.SUSPECT, 1, pack_advert({}))


@pytest.mark.parametrize("members", [2, 3, 4, 10, 100, 2000])
def test_confirmations_shorten_a_suspicion_from_its_maximum_to_its_minimum(members: int) -> None:
    waits = [timeout_s(SETTINGS, members, accusers) for accusers in range(6)]
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == SETTINGS.suspicion_min_s(members)
    if members > 2:
        assert waits[1] == SETTINGS.suspicion_max_s(members)


def test_where_nobody_can_confirm_the_minimum_holds() -> None:
    assert timeout_s(SETTINGS, 2, 1) == SETTINGS.suspicion_min_s(2)


def opened(now: float = 100.0) -> Suspicions:
    suspicions = Suspicions(SETTINGS)
    suspicions.open(SUSPECT, now, now)
    return suspicions


def test_one_accuser_counts_once() -> None:
    suspicions = opened()
    assert suspicions.confirm(X, (A,), (), held=False)
    assert not suspicions.confirm(X, (A,), (), held=False)
    assert suspicions.confirm(X, (B,), (), held=False)


def test_confirmations_beyond_what_counts_are_no_news() -> None:
    suspicions = opened()
    suspicions.confirm(X, (ME, A, B), (), held=False)
    assert not suspicions.confirm(X, (C,), (), held=False)


def test_bystanders_wait_longer_than_witnesses() -> None:
    suspicions = opened()
    suspicions.confirm(X, (A,), (), held=False)
    bystander = suspicions.due(X, 100, ME)
    assert bystander == suspicions.due(X, 100, A) + SETTINGS.bystander_grace_s


def test_an_accepted_connect_turns_it_into_a_stall() -> None:
    suspicions = opened()
    suspicions.confirm(X, (A, B, C), (), held=False)
    assert suspicions.due(X, 100, A) < 100 + SETTINGS.stall_patience_s
    assert suspicions.confirm(X, (), (), held=True)
    assert suspicions.due(X, 100, A) > 100 + SETTINGS.stall_patience_s


@pytest.mark.parametrize(("members", "observers"), [(2, 1), (3, 1), (4, 2), (2000, 2)])
def test_a_crash_needs_two_observers_unless_there_are_hardly_any(
    members: int, observers: int
) -> None:
    suspicions = opened()
    for count, witness in enumerate((A, B), 1):
        suspicions.confirm(X, (witness,), (witness,), held=False)
        assert suspicions.crash_confirmed(X, members, ME) == (count >= observers)


def test_what_i_saw_myself_needs_one_other_accuser_of_any_kind() -> None:
    suspicions = opened()
    suspicions.confirm(X, (ME,), (ME,), held=False)
    assert not suspicions.crash_confirmed(X, 100, ME)
    suspicions.confirm(X, (A,), (), held=False)
    assert suspicions.crash_confirmed(X, 100, ME)
    assert not suspicions.crash_confirmed(X, 100, B)


def test_a_new_incarnation_starts_a_new_suspicion() -> None:
    suspicions = opened()
    suspicions.confirm(X, (A, B), (), held=False)
    again = suspicions.open(
        Record(X, Generation(1), 1, Status.SUSPECT, 1, pack_advert({})), 110.0, 110.0
    )
    assert again.accusers == () and again.started == 110.0
    assert suspicions.open(SUSPECT, 120.0, 120.0) is not again
