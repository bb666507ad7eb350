from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.loader.discovery.test_selection import ME, member
from tests.loader.support import identity, place

from netloader.discovery.advert import decode
from netloader.discovery.election import (
    Contender,
    Electorate,
    MemberStart,
    Read,
    Wait,
    elect,
    survey,
)
from netloader.identity.identity import Evidence, LazyContent
from netmesh import Member, Status


def electorate_of(*members: Member, **kept: object) -> Electorate:
    return survey([(one, decode(one.advert)) for one in members], identity(), **kept)  # type: ignore[arg-type]


def other(number: int = 2, **held: object) -> Member:
    return member(f"10.0.0.{number}:17946", **{"state": "loading", "storage": "able"} | held)  # type: ignore[arg-type]


def names(electorate: Electorate) -> list[str]:
    return [one.name for one in electorate.contenders]


class TestSurvey:
    def test_nobody_else_is_no_company(self) -> None:
        assert electorate_of(ME) == Electorate()

    def test_who_could_read_the_same_is_a_contender(self) -> None:
        found = electorate_of(ME, other(2), other(3, storage="reading", held=5))
        assert found.company
        assert found.contenders == (
            Contender(("10.0.0.2:17946", 11), False, 0),
            Contender(("10.0.0.3:17946", 11), True, 5),
        )

    def test_a_source_is_neither_company_nor_a_contender(self) -> None:
        assert electorate_of(ME, member()) == Electorate()

    def test_a_model_that_is_being_built_is_company_as_far_as_known(self) -> None:
        known = dict(identity().fields())
        del known["architecture"]
        assert electorate_of(ME, other(fields=known, content={}, storage="")) == Electorate(
            company=True
        )

    @pytest.mark.parametrize(
        "held",
        [
            {"fields": identity(built=place(tp_size=4)).fields()},
            {"role": "draft"},
            {"names": {"model": "another"}},
        ],
    )
    def test_who_loads_something_else_does_not_count(self, held: dict[str, object]) -> None:
        # The operator has named this model: `toy`.
        assert electorate_of(ME, other(**held)) == Electorate()

    def test_another_checkpoint_of_one_config_is_no_contender(self) -> None:
        assert names(electorate_of(ME, other(content={"sample": "other"}))) == []

    def test_who_has_not_said_what_it_reads_may_read_the_same(self) -> None:
        assert electorate_of(ME, other(storage="reading", content={})) == Electorate(
            company=True, unnamed=True
        )

    def test_who_cannot_be_pulled_from_does_not_count(self) -> None:
        assert electorate_of(ME, other(), fits=lambda holding: False) == Electorate()

    @pytest.mark.parametrize("status", [Status.DEAD, Status.LEFT])
    def test_the_dead_do_not_count(self, status: Status) -> None:
        gone = member(status=status, state="loading", storage="reading")
        assert electorate_of(ME, gone) == Electorate()

    @pytest.mark.parametrize("status", [Status.STALLED, Status.SUSPECT])
    def test_who_is_held_up_goes_on_reading_but_does_not_begin(self, status: Status) -> None:
        reads = member(status=status, state="loading", storage="reading")
        assert names(electorate_of(ME, reads)) == [reads.id]
        assert (
            names(electorate_of(ME, member(status=status, state="loading", storage="able"))) == []
        )

    def test_who_has_read_and_serves_nobody_ends_all_hope(self) -> None:
        found = electorate_of(
            ME, member(state="unavailable", origin="storage", reason="no originals")
        )
        assert "no originals" in found.unshared

    def test_whose_pull_failed_does_not(self) -> None:
        assert electorate_of(ME, member(state="unavailable", origin="peers")).unshared == ""

    def test_evidence_is_not_made_for_members_that_differ_otherwise(self) -> None:
        def fail() -> str:
            raise AssertionError

        mine = identity(content=LazyContent({Evidence.SAMPLE: fail}))
        stranger = other(fields=identity(built=place(tp_size=4)).fields())
        assert survey([(stranger, decode(stranger.advert))], mine) == Electorate()


WHO = identity()


def processes(count: int) -> list[MemberStart]:
    return [(f"10.0.0.{number}:1", number) for number in range(count)]


def readers(
    all_of_them: Iterable[MemberStart], loaders: int = 1, reads: tuple[MemberStart, ...] = ()
) -> int:
    members = list(all_of_them)
    chosen = 0
    for me in members:
        rest = tuple(Contender(one, one in reads, 0) for one in members if one != me)
        chosen += isinstance(elect(me, WHO, Electorate(rest, True), loaders), Read)
    return chosen


class TestElect:
    @pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
    @pytest.mark.parametrize("loaders", [1, 2, 5])
    def test_all_agree_who_reads(self, count: int, loaders: int) -> None:
        assert readers(processes(count), loaders) == min(count, loaders)

    def test_whoever_reads_already_is_enough(self) -> None:
        for reader in processes(8):
            late = [one for one in processes(8) if one != reader]
            for me in late:
                rest = tuple(Contender(one, one == reader, 0) for one in processes(8) if one != me)
                assert elect(me, WHO, Electorate(rest, True), 1) == Wait(
                    (Contender(reader, True, 0),)
                )

    @pytest.mark.parametrize("loaders", [1, 2, 5])
    def test_of_those_that_claimed_to_read_at_once_only_so_many_stay(self, loaders: int) -> None:
        claimed = 0
        for me in processes(8):
            rest = tuple(Contender(one, True, 0) for one in processes(8) if one != me)
            field = Electorate(rest, True)
            claimed += isinstance(elect(me, WHO, field, loaders, claimed=True), Read)
            assert isinstance(elect(me, WHO, field, loaders), Wait)
        assert claimed == loaders

    def test_who_was_passed_over_no_longer_counts(self) -> None:
        reader = Contender(("a:1", 1), True, 0)
        assert elect(("b:1", 2), WHO, Electorate((reader,), True), 1, [reader.process]) == Read()

    def test_who_cannot_read_waits_for_whoever_could(self) -> None:
        able = Contender(("a:1", 1), False, 0)
        assert elect(None, WHO, Electorate((able,), True), 1) == Wait((able,))

    def test_who_cannot_read_has_to_try_when_nobody_else_could(self) -> None:
        assert elect(None, WHO, Electorate((), True), 1) == Read()

    def test_different_weights_have_different_readers(self) -> None:
        rest = [Contender(one, False, 0) for one in processes(16)]
        first = {
            elect(None, identity(built=place(rank=rank)), Electorate(tuple(rest), True), 1)
            for rank in range(8)
        }
        assert len(first) > 1
