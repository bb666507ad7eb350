"""One function applies a claim: the table gives the status, the lattice decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netmesh.core.changes import TOLD, Change, Telling, apply, causes_of, lacks_advert
from netmesh.core.claims import Claim, head, whole
from netmesh.core.records import Advert, Generation, MemberId, Record, Status, merge
from netmesh.core.states import TRANSITIONS, Cause

from .test_records import A, records

verdicts = st.sampled_from(Cause)


def told(old: Record | None, claim: Claim) -> Change | None:
    return apply(old, claim, causes_of(old, claim, TOLD.get(claim.status)))


@given(records, records)
def test_hearing_a_whole_record_is_merging_it(a: Record, b: Record) -> None:
    change = told(a, whole(b))
    assert (a if change is None else change.new) == merge(a, b)
    assert not lacks_advert(a, whole(b))


@given(records, records)
def test_hearing_a_head_never_loses_anything(a: Record, b: Record) -> None:
    change = told(a, head(b))
    new = a if change is None else change.new
    assert merge(new, a) == new
    if not lacks_advert(a, head(b)):
        assert (new.order, new.generation) == (merge(a, b).order, merge(a, b).generation) or (
            b.generation > a.generation and not b.status.live
        )


@given(st.none() | records, records, st.booleans())
def test_whatever_is_heard_has_rows_for_causes_and_goes_up(
    old: Record | None, heard: Record, bare: bool
) -> None:
    change = told(old, head(heard) if bare else whole(heard))
    if change is not None:
        change.check()


@given(records, verdicts)
def test_whatever_is_found_out_changes_nothing_or_takes_its_row(old: Record, cause: Cause) -> None:
    change = apply(old, head(old), (cause,))
    then = TRANSITIONS.get((old.status, cause), old.status)
    if change is None:
        assert then <= old.status
    else:
        assert change.new.status is then
        change.check()


def test_a_finding_without_a_row_changes_nothing() -> None:
    dead = Record(A, Generation(1), 0, Status.DEAD, 1, Advert(b"{}"))
    assert apply(dead, head(dead), (Cause.UNREACHABLE,)) is None


def test_a_row_that_does_not_go_up_in_the_lattice_changes_nothing() -> None:
    suspect = Record(A, Generation(1), 4, Status.SUSPECT, 1, Advert(b"{}"))
    assert apply(suspect, head(suspect), (Cause.REFUTED,)) is None


def test_a_claim_under_a_higher_incarnation_tells_of_a_refutation_before_it() -> None:
    dead = Record(A, Generation(1), 0, Status.DEAD, 1, Advert(b"{}"))
    change = told(dead, Claim(A, Generation(1), 1, Status.SUSPECT, 1))
    assert change is not None
    assert change.causes == (Cause.REFUTED, Cause.TOLD_SUSPECT)
    assert change.new.status is Status.SUSPECT


def test_a_death_that_is_not_believed_is_a_suspicion() -> None:
    alive = Record(A, Generation(1), 0, Status.ALIVE, 1, Advert(b"{}"))
    claim = Claim(A, Generation(1), 0, Status.DEAD, 1)
    change = apply(alive, claim, causes_of(alive, claim, Cause.DEATH_DOUBTED))
    assert change is not None and change.new.status is Status.SUSPECT


def test_nothing_is_known_about_a_stranger_without_its_advert() -> None:
    claim = Claim(MemberId("10.6.6.6:666"), Generation(1), 0, Status.ALIVE, 1)
    assert told(None, claim) is None
    assert lacks_advert(None, claim)


ALIVE = Record(A, Generation(2), 1, Status.ALIVE, 3, Advert(b"{}"))
LOWER = Record(A, Generation(2), 0, Status.ALIVE, 3, Advert(b"{}"))
DEAD = Record(A, Generation(2), 1, Status.DEAD, 3, Advert(b"{}"))


@pytest.mark.parametrize(
    ("old", "new", "causes"),
    [
        (ALIVE, DEAD, ()),
        (ALIVE, DEAD, (Cause.SUSPICION_OVER,)),
        (ALIVE, DEAD, (Cause.UNREACHABLE,)),
        (ALIVE, LOWER, (Cause.REFUTED,)),
        (ALIVE, ALIVE, (Cause.ADVERTISES,)),
        (None, ALIVE, (Cause.REFUTED,)),
    ],
    ids=["no cause", "no row", "another status", "down", "the same", "no row for a stranger"],
)
def test_the_check_finds_a_change_against_the_rules(
    old: Record | None, new: Record, causes: tuple[Cause, ...]
) -> None:
    with pytest.raises(AssertionError):
        Change(old, new, causes, head(new), Telling.RUMOUR).check()
