from __future__ import annotations

from collections import Counter

import pytest
from tests.loader.discovery.test_advert import holding
from tests.loader.support import identity, place

from netloader.discovery import advert
from netloader.discovery.advert import Accused, Holding
from netloader.discovery.selection import MAX_REJECTED, Choice, choose, distance
from netloader.identity.identity import Evidence, LazyContent, Names
from netmesh import Generation, Member, MemberId, Status


def member(
    name: str = "10.0.0.2:17946", *, status: Status = Status.ALIVE, me: bool = False, **held: object
) -> Member:
    made = holding(**{"endpoint": f"{name.rpartition(':')[0]}:2000"} | held)
    return Member(
        id=MemberId(name),
        generation=Generation(11),
        incarnation=0,
        status=status,
        version=0,
        advert=advert.encode((made,)),
        age_s=1.0,
        me=me,
    )


CHUNK = 32 << 20
ME = member("10.0.0.1:17946", me=True, state="loading")


def test_ready_member_with_the_same_weights_is_a_candidate() -> None:
    choice = choose([ME, member()], identity(), ("gloo",), CHUNK)
    assert [(found.endpoint, found.generation) for found in choice.candidates] == [
        ("10.0.0.2:2000", 11)
    ]
    assert choice.candidates[0].found_by == "mesh"
    assert choice.rejected == ()


def test_a_member_that_shares_while_it_loads_is_a_candidate() -> None:
    sharing = member(state="loading", sharing=True, held=5)
    (found,) = choose([ME, sharing], identity(), ("gloo",), CHUNK).candidates
    assert found.endpoint == "10.0.0.2:2000"
    for changes in ({"state": "unavailable"}, {"endpoint": ""}, {"backend": "nccl"}):
        one = member(**{"state": "loading", "sharing": True, **changes})  # type: ignore[arg-type]
        assert choose([ME, one], identity(), ("gloo",), CHUNK).candidates == ()


PROCESSED = identity().processed({"chip": "910B"})


def test_a_member_with_processed_weights_is_a_candidate_for_those_alone() -> None:
    there = member(fields=PROCESSED.fields(), identity=PROCESSED.digest)
    as_loaded = choose([ME, there], identity(), ("gloo",), CHUNK)
    assert as_loaded.candidates == ()
    assert as_loaded.rejected == ("10.0.0.2:17946: has them as post-processing left them",)
    assert len(choose([ME, there], PROCESSED, ("gloo",), CHUNK).candidates) == 1


def test_another_chip_is_named_and_other_layouts_were_named_before() -> None:
    other = identity().processed({"chip": "310P"})
    there = member(fields=other.fields(), identity=other.digest)
    loaded = member("10.0.0.3:17946", state="loading")
    choice = choose([ME, there, loaded], PROCESSED, ("gloo",), CHUNK)
    assert (choice.candidates, choice.rejected) == (
        (),
        ("10.0.0.2:17946: chip: mine '910B', theirs '310P'",),
    )


def test_member_never_picks_itself() -> None:
    assert choose([member(me=True)], identity(), ("gloo",), CHUNK).candidates == ()


def test_an_endpoint_that_may_not_be_reached_is_no_candidate() -> None:
    choice = choose([ME, member()], identity(), ("gloo",), CHUNK, reaches=lambda endpoint: False)
    assert choice.candidates == ()
    assert "may not be reached from here" in choice.rejected[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": Status.SUSPECT}, "is suspect"),
        ({"status": Status.STALLED}, "is stalled"),
        ({"status": Status.DEAD}, "is dead"),
        ({"state": "loading"}, "is loading"),
        ({"state": "unavailable", "reason": "asleep"}, "is unavailable: asleep"),
        ({"backend": "nccl"}, "backend: mine gloo, theirs nccl"),
        ({"backend": ""}, "backend: mine gloo, theirs none"),
        (
            {"backend": "gloo", "transports": ("hccl", "nccl")},
            "backend: mine gloo, theirs hccl, nccl",
        ),
        ({"endpoint": ""}, "has no listener"),
        ({"chunk_bytes": 16 << 20}, "CHUNK_BYTES: mine 33554432, theirs 16777216"),
        ({"fields": identity(dtype="int8").fields()}, "dtype: mine 'float32', theirs 'int8'"),
        ({"content": {"commit": "x"}}, "checkpoint content cannot be compared: I know sample, "),
    ],
)
def test_unsuitable_member_is_rejected_with_the_reason(
    change: dict[str, object], reason: str
) -> None:
    choice = choose([ME, member(**change)], identity(), ("gloo",), CHUNK)  # type: ignore[arg-type]
    assert choice.candidates == ()
    assert choice.rejected[0].startswith(f"10.0.0.2:17946: {reason}")


@pytest.mark.parametrize(
    ("advertised", "known"),
    [
        ({"backend": "hccl", "transports": ("hccl", "gloo")}, ("hccl", "gloo")),
        ({"backend": "gloo"}, ("gloo",)),  # An older member names only one.
    ],
    ids=["new", "old"],
)
def test_a_candidate_comes_with_all_its_transports(
    advertised: dict[str, object], known: tuple[str, ...]
) -> None:
    choice = choose([ME, member(**advertised)], identity(), ("hccl", "gloo"), CHUNK)  # type: ignore[arg-type]
    assert [found.transports for found in choice.candidates] == [known]


def other(name: str, **changes: object) -> Member:
    """A member with a model of another name."""
    names = {"model": "", "known": name, "given": name}
    return member("10.0.0.4:1", names=names, fields=identity(**changes).fields())


@pytest.mark.parametrize(
    ("mine", "theirs", "fits"),
    [("", "", True), ("a", "", True), ("", "a", True), ("a", "a", True), ("a", "b", False)],
)
def test_members_of_different_fabrics_never_transfer(mine: str, theirs: str, fits: bool) -> None:
    choice = choose([ME, member(fabric=theirs)], identity(), ("gloo",), CHUNK, fabric=mine)
    assert bool(choice.candidates) == fits
    assert fits or choice.rejected[0].endswith("FABRIC: mine a, theirs b")


def test_other_roles_are_passed_over_in_silence() -> None:
    choice = choose([ME, member("10.0.0.3:1", role="draft")], identity(), ("gloo",), CHUNK)
    assert choice == Choice((), ())


def test_names_do_not_matter_unless_operators_set_them_on_both_sides() -> None:
    mine = identity(names=Names("", "org/toy", "/a/toy/"))
    for names in ({}, {"known": "org/other", "given": "/b"}, {"model": "chosen"}):
        choice = choose([ME, member(names=names)], mine, ("gloo",), CHUNK)
        assert len(choice.candidates) == 1
    choice = choose([ME, member(names={"model": "chosen"})], identity(), ("gloo",), CHUNK)
    assert choice.candidates == ()
    assert choice.rejected == (
        "nobody holds these weights; nearest is 10.0.0.2:17946 (chosen): "
        "MODEL: mine 'toy', theirs 'chosen'",
    )


def test_without_a_match_the_nearest_member_is_told_with_one_difference() -> None:
    far = other("far", architecture="Other", dtype="int8", quantization="gptq")
    near = other("near", config={"rope_theta": "500000.0"})
    choice = choose([ME, far, near], identity(), ("gloo",), CHUNK)
    assert choice.rejected == (
        "nobody holds these weights; nearest is 10.0.0.4:1 (near): "
        "config: rope_theta: mine 10000.0, theirs 500000.0",
    )


def test_with_a_match_models_of_other_names_are_not_told_of() -> None:
    choice = choose([ME, member(), other("far", dtype="int8")], identity(), ("gloo",), CHUNK)
    assert (len(choice.candidates), choice.rejected) == (1, ())


def test_of_members_of_the_same_name_all_differences_are_told() -> None:
    fields = identity(dtype="int8", quantization="gptq").fields()
    choice = choose([ME, member(fields=fields), other("far")], identity(), ("gloo",), CHUNK)
    assert choice.rejected[0] == (
        "10.0.0.2:17946: dtype: mine 'float32', theirs 'int8'; quantization: mine '', theirs 'gptq'"
    )


def test_member_whose_model_is_being_built_is_loading_and_no_stranger() -> None:
    mine = identity(built=place(tp_size=2, tp_rank=1) | {"shards": "a" * 32})
    planned = identity(built={"tp_size": 2, "tp_rank": 1}).fields()
    choice = choose([ME, member(state="loading", fields=planned)], mine, ("gloo",), CHUNK)
    assert choice.rejected == ("10.0.0.2:17946: is loading: its model is being built",)
    other_rank = planned | {"tp_rank": 0}
    choice = choose([ME, member(state="loading", fields=other_rank)], mine, ("gloo",), CHUNK)
    assert "tp_rank: mine 1, theirs 0" in choice.rejected[0]


def test_no_more_than_a_few_members_are_told_of_and_the_others_counted() -> None:
    everybody = [member(f"10.0.1.{number}:1", state="loading") for number in range(100)]
    choice = choose([ME, *everybody], identity(), ("gloo",), CHUNK)
    assert len(choice.rejected) == MAX_REJECTED + 1
    assert choice.rejected[-1] == "and 92 more that come as near"
    assert choose([ME, *everybody], identity(), ("gloo",), CHUNK, explain=False).candidates == ()


def test_content_is_read_only_for_a_member_that_fits_in_everything_else() -> None:
    def fails() -> str:
        raise AssertionError("read for nothing")

    mine = identity(content=LazyContent({Evidence.SAMPLE: fails}))
    unsuitable = [
        member(status=Status.DEAD),
        member(state="loading"),
        member(backend="nccl"),
        member(fields=identity(dtype="int8").fields()),
        member(content={"commit": "x"}),
    ]
    for one in unsuitable:
        assert choose([ME, one], mine, ("gloo",), CHUNK).candidates == ()
    with pytest.raises(AssertionError, match="read for nothing"):
        choose([ME, member()], mine, ("gloo",), CHUNK)


def test_fewest_sessions_first_then_the_same_host() -> None:
    everybody = [
        ME,
        member("10.0.0.2:1", serving=1),
        member("10.0.0.3:1"),
        member("10.0.0.1:2"),
        member("10.0.0.1:3", serving=2),
    ]
    choice = choose(everybody, identity(), ("gloo",), CHUNK)
    assert [found.endpoint for found in choice.candidates] == [
        "10.0.0.1:2000",
        "10.0.0.3:2000",
        "10.0.0.2:2000",
        "10.0.0.1:2000",
    ]


def test_order_does_not_depend_on_the_order_of_members() -> None:
    everybody = [ME, *(member(f"10.0.1.{number}:1") for number in range(20))]
    assert choose(everybody, identity(), ("gloo",), CHUNK) == choose(
        everybody[::-1], identity(), ("gloo",), CHUNK
    )


def test_many_replicas_spread_over_equal_sources() -> None:
    sources = [member(f"10.0.1.{number}:1") for number in range(10)]
    first = Counter(
        choose([member(f"10.0.2.{number}:1", me=True), *sources], identity(), ("gloo",), CHUNK)
        .candidates[0]
        .endpoint
        for number in range(200)
    )
    assert len(first) == 10
    assert max(first.values()) < 50


def test_the_same_network_before_others() -> None:
    far = [member(f"10.0.{number}.9:1") for number in range(1, 30)]
    near = member("10.0.0.77:1")
    choice = choose([ME, *far, near], identity(), ("gloo",), CHUNK)
    assert choice.candidates[0].endpoint == "10.0.0.77:2000"


@pytest.mark.parametrize(
    ("mine", "theirs", "far"),
    [
        ("10.0.0.1", "10.0.0.1", 0),
        ("node-a", "node-a", 0),
        ("10.0.0.1", "10.0.0.254", 1),
        ("10.0.0.1", "10.0.1.1", 2),
        ("2001:db8::1", "2001:db8::2:3", 1),
        ("2001:db8::1", "2001:db8:0:1::1", 2),
        ("10.0.0.1", "2001:db8::1", 2),
        ("node-a", "node-b", 2),
    ],
)
def test_distance(mine: str, theirs: str, far: int) -> None:
    assert distance(mine, theirs) == far


class TestWrongBytes:
    LIAR, HONEST = "10.0.0.2:1", "10.0.0.3:1"
    ACCUSED = Accused(endpoint="10.0.0.2:2000", generation=11)

    def test_caught_by_this_worker_is_left_out_and_named(self) -> None:
        choice = choose(
            [ME, member(self.LIAR)], identity(), ("gloo",), CHUNK, caught={("10.0.0.2:2000", 11)}
        )
        assert choice.candidates == ()
        assert choice.rejected == ("10.0.0.2:1: sent other bytes than it had promised",)

    def test_whoever_follows_on_its_endpoint_is_another_process(self) -> None:
        caught = {("10.0.0.2:2000", 10)}
        choice = choose([ME, member(self.LIAR)], identity(), ("gloo",), CHUNK, caught=caught)
        assert len(choice.candidates) == 1

    def test_accused_by_another_member_comes_last(self) -> None:
        accuser = member("10.0.0.9:1", state="loading", accuses=(self.ACCUSED,))
        members = [ME, member(self.LIAR), member(self.HONEST, serving=9), accuser]
        choice = choose(members, identity(), ("gloo",), CHUNK)
        assert [one.endpoint for one in choice.candidates] == ["10.0.0.3:2000", "10.0.0.2:2000"]

    def test_a_dead_accuser_does_not_count(self) -> None:
        accuser = member("10.0.0.9:1", status=Status.DEAD, accuses=(self.ACCUSED,))
        members = [ME, member(self.LIAR), member(self.HONEST, serving=9), accuser]
        choice = choose(members, identity(), ("gloo",), CHUNK)
        assert choice.candidates[0].endpoint == "10.0.0.2:2000"


def test_holdings_are_read_by_the_callers_reader() -> None:
    asked: list[MemberId] = []

    def read(member: Member) -> tuple[Holding, ...]:
        asked.append(member.id)
        return ()

    assert choose([ME, member()], identity(), ("gloo",), CHUNK, read=read) == Choice((), ())
    assert asked == [ME.id, member().id]
