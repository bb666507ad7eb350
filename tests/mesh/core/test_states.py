import pytest

from netmesh.core.events import DialOutcome
from netmesh.core.records import Status
from netmesh.core.states import TRANSITIONS, Cause, after, mermaid, triage


def test_silence_alone_never_kills() -> None:
    for cause in (Cause.PROCESS_SILENT, Cause.UNREACHABLE, Cause.PATIENCE_OVER, Cause.CRASH_SEEN):
        for status in (Status.ALIVE, Status.STALLED, Status.SUSPECT):
            assert after(status, cause).live


def test_everything_can_be_taken_back_by_the_member_itself() -> None:
    for status in (Status.STALLED, Status.SUSPECT, Status.DEAD, Status.LEFT):
        assert after(status, Cause.REFUTED) is Status.ALIVE
        assert after(status, Cause.RESTARTED) is Status.ALIVE


def test_without_the_members_own_word_a_verdict_only_gets_worse() -> None:
    for (before, cause), then in TRANSITIONS.items():
        if cause not in (Cause.REFUTED, Cause.RESTARTED):
            assert then > before


def test_a_death_learnt_by_sync_is_only_a_suspicion() -> None:
    assert after(Status.ALIVE, Cause.DEAD_BY_SYNC) is Status.SUSPECT


def test_a_pair_that_is_not_in_the_table_changes_nothing() -> None:
    assert after(Status.DEAD, Cause.UNREACHABLE) is Status.DEAD


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (DialOutcome.REFUSED, Cause.CRASH_SEEN),
        (DialOutcome.CONNECTED, Cause.PROCESS_SILENT),
        (DialOutcome.SILENT, Cause.UNREACHABLE),
    ],
)
def test_triage(outcome: DialOutcome, cause: Cause) -> None:
    assert triage(outcome) is cause


def test_the_diagram_shows_every_transition() -> None:
    assert len(mermaid().splitlines()) == len(TRANSITIONS) + 2
