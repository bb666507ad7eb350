import pytest

from netmesh.core.changes import TOLD
from netmesh.core.events import DialOutcome
from netmesh.core.records import Status
from netmesh.core.states import TRANSITIONS, Cause, after, triage

OWN_WORD = {Cause.JOINS, Cause.ADVERTISES, Cause.REFUTED, Cause.RESTARTED}


def test_silence_alone_never_kills() -> None:
    for cause in (Cause.PROCESS_SILENT, Cause.UNREACHABLE, Cause.PATIENCE_OVER, Cause.CRASH_SEEN):
        for status in (Status.ALIVE, Status.STALLED, Status.SUSPECT):
            then = after(status, cause)
            assert then is not None and then.live


def test_everything_can_be_taken_back_by_the_member_itself() -> None:
    for status in Status:
        assert after(status, Cause.REFUTED) is Status.ALIVE
        assert after(status, Cause.RESTARTED) is Status.ALIVE


def test_without_the_members_own_word_a_verdict_only_gets_worse() -> None:
    for (before, cause), then in TRANSITIONS.items():
        if cause not in OWN_WORD:
            assert before is not None and then > before


def test_a_new_advert_changes_no_status() -> None:
    for status in Status:
        assert after(status, Cause.ADVERTISES) is status


@pytest.mark.parametrize("status", Status)
def test_what_is_told_at_its_word_is_taken_over_from_every_better_status(status: Status) -> None:
    for before in Status:
        if before < status:
            assert after(before, TOLD[status]) is status


def test_a_death_that_is_not_believed_is_only_a_suspicion() -> None:
    assert after(Status.ALIVE, Cause.DEATH_DOUBTED) is Status.SUSPECT


def test_a_pair_that_is_not_in_the_table_changes_nothing() -> None:
    assert after(Status.DEAD, Cause.UNREACHABLE) is Status.DEAD
    assert after(None, Cause.LEAVES) is None


def test_causes_follow_each_other() -> None:
    assert after(Status.DEAD, Cause.RESTARTED, Cause.UNREACHABLE) is Status.SUSPECT


def test_every_cause_has_a_row() -> None:
    assert {cause for _, cause in TRANSITIONS} == set(Cause)


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (DialOutcome.REFUSED, Cause.CRASH_SEEN),
        (DialOutcome.CONNECTED, Cause.PROCESS_SILENT),
        (DialOutcome.SILENT, Cause.UNREACHABLE),
        (DialOutcome.UNKNOWN, None),
    ],
)
def test_triage(outcome: DialOutcome, cause: Cause | None) -> None:
    assert triage(outcome) is cause
