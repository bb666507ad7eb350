from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.loader.discovery.test_selection import ME, member
from tests.loader.support import identity, place

from netloader.discovery.advert import decode
from netloader.discovery.election import Contender, Field, Process, Read, Wait, elect, survey
from netloader.identity.identity import Evidence, LazyContent
from netmesh import Member, Status


def field(*members: Member, **kept: object) -> Field:
    return survey([(one, decode(one.advert)) for one in members], identity(), **kept)  # type: ignore[arg-type]


def other(number: int = 2, **held: object) -> Member:
    return member(f"10.0.0.{number}:17946", **{"state": "loading", "storage": "able"} | held)  # type: ignore[arg-type]


def names(field: Field) -> list[str]:
    return [one.name for one in field.contenders]


class TestSurvey:
    def test_nobody_else_is_no_company(self) -> None:
        assert field(ME) == Field()

    def test_who_could_read_the_same_is_a_contender(self) -> None:
        found = field(ME, other(2), other(3, storage="reading", held=5))
        assert found.company
        assert found.contenders == (
            Contender(("10.0.0.2:17946", 11), False, 0),
            Contender(("10.0.0.3:17946", 11), True, 5),
        )

    def test_a_source_is_neither_company_nor_a_contender(self) -> None:
        assert field(ME, member()) == Field()

    def test_a_model_that_is_being_built_is_company_as_far_as_known(self) -> None:
        known = dict(identity().fields())
        del known["architecture"]
        assert field(ME, other(fields=known, content={}, storage="")) == Field(company=True)

    @pytest.mark.parametrize(
        "held",
        [
            {"fields": identity(built=place(tp_size=4)).fields()},
            {"role": "draft"},
            {"names": {"model": "another"}},
        ],
    )
    def test_who_loads_something_else_does_not_count(self, held: dict[str, object]) -> None:
        mine = identity()
        named = survey([(one, decode(one.advert)) for one in (ME, other(**held))], mine)
        if "names" not in held:
            assert named == Field()

    def test_another_checkpoint_of_one_config_is_no_contender(self) -> None:
        assert names(field(ME, other(content={"sample": "other"}))) == []

    def test_who_has_not_said_what_it_reads_may_read_the_same(self) -> None:
        assert field(ME, other(storage="reading", content={})) == Field(company=True, unnamed=True)

    def test_who_cannot_be_pulled_from_does_not_count(self) -> None:
        assert field(ME, other(), fits=lambda holding: False) == Field()

    @pytest.mark.parametrize("status", [Status.DEAD, Status.LEFT])
    def test_the_dead_do_not_count(self, status: Status) -> None:
        gone = member(status=status, state="loading", storage="reading")
        assert field(ME, gone) == Field()

    @pytest.mark.parametrize("status", [Status.STALLED, Status.SUSPECT])
    def test_who_is_held_up_goes_on_reading_but_does_not_begin(self, status: Status) -> None:
        reads = member(status=status, state="loading", storage="reading")
        assert names(field(ME, reads)) == [reads.id]
        assert names(field(ME, member(status=status, state="loading", storage="able"))) == []

    def test_who_has_read_and_serves_nobody_ends_all_hope(self) -> None:
        found = field(ME, member(state="unavailable", origin="storage", reason="no originals"))
        assert "no originals" in found.unshared

    def test_whose_pull_failed_does_not(self) -> None:
        assert field(ME, member(state="unavailable", origin="peers")).unshared == ""

    def test_evidence_is_not_made_for_members_that_differ_otherwise(self) -> None:
        def fail() -> str:
            raise AssertionError

        mine = identity(content=LazyContent({Evidence.SAMPLE: fail}))
        stranger = other(fields=identity(built=place(tp_size=4)).fields())
        assert survey([(stranger, decode(stranger.advert))], mine) == Field()


WHO = identity()


def processes(count: int) -> list[Process]:
    return [(f"10.0.0.{number}:1", number) for number in range(count)]


def readers(
    all_of_them: Iterable[Process], loaders: int = 1, reads: tuple[Process, ...] = ()
) -> int:
    members = list(all_of_them)
    chosen = 0
    for me in members:
        rest = tuple(Contender(one, one in reads, 0) for one in members if one != me)
        chosen += isinstance(elect(me, WHO, Field(rest, True), loaders), Read)
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
                assert elect(me, WHO, Field(rest, True), 1) == Wait((Contender(reader, True, 0),))

    @pytest.mark.parametrize("loaders", [1, 2, 5])
    def test_of_those_that_claimed_to_read_at_once_only_so_many_stay(self, loaders: int) -> None:
        claimed = 0
        for me in processes(8):
            rest = tuple(Contender(one, True, 0) for one in processes(8) if one != me)
            field = Field(rest, True)
            claimed += isinstance(elect(me, WHO, field, loaders, claimed=True), Read)
            assert isinstance(elect(me, WHO, field, loaders), Wait)
        assert claimed == loaders

    def test_who_was_passed_over_no_longer_counts(self) -> None:
        reader = Contender(("a:1", 1), True, 0)
        assert elect(("b:1", 2), WHO, Field((reader,), True), 1, [reader.process]) == Read()

    def test_who_cannot_read_waits_for_whoever_could(self) -> None:
        able = Contender(("a:1", 1), False, 0)
        assert elect(None, WHO, Field((able,), True), 1) == Wait((able,))

    def test_who_cannot_read_has_to_try_when_nobody_else_could(self) -> None:
        assert elect(None, WHO, Field((), True), 1) == Read()

    def test_different_weights_have_different_readers(self) -> None:
        rest = [Contender(one, False, 0) for one in processes(16)]
        first = {
            elect(None, identity(built=place(rank=rank)), Field(tuple(rest), True), 1)
            for rank in range(8)
        }
        assert len(first) > 1
