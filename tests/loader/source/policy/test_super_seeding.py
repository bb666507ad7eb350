"""Which chunks a source offers to which replica."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from netloader.source.policy.super_seeding import AHEAD, SuperSeeding

CHUNKS = 24


@dataclass
class Replicas:
    """Replicas that know what they were told, and ask for what is on offer."""

    seeding: SuperSeeding
    offered: dict[str, set[int]] = field(default_factory=dict)
    asked: dict[str, list[int]] = field(default_factory=dict)

    def join(self, *names: str, has: tuple[int, ...] = ()) -> None:
        for name in names:
            self.offered[name], self.asked[name] = set(), []
            self.seeding.join(name, has)
            self.hear()

    def hear(self) -> None:
        for name, change in self.seeding.changes().items():
            assert not set(change.offered) & self.offered[name], "offered twice"
            assert set(change.retracted) <= self.offered[name], "retracted and never offered"
            self.offered[name] = (self.offered[name] | set(change.offered)) - set(change.retracted)
        assert self.seeding.changes() == {}

    def ask(self, name: str) -> bool:
        """Ask for one chunk on offer that was not asked for. False when there is none."""
        left = sorted(self.offered[name].difference(self.asked[name]))
        if left:
            self.asked[name].append(left[0])
            self.seeding.has(name, left[:1])
            self.hear()
        return bool(left)

    def leave(self, name: str) -> None:
        got = self.asked.pop(name)
        del self.offered[name]
        self.seeding.leave(name, got)
        self.hear()


def complete() -> Replicas:
    return Replicas(SuperSeeding(CHUNKS, range(CHUNKS)))


def test_one_replica_is_offered_everything() -> None:
    world = complete()
    world.join("a")
    assert world.offered["a"] == set(range(CHUNKS))


def test_several_are_offered_each_chunk_once() -> None:
    world = complete()
    world.join(*"abc")
    for _ in range(CHUNKS // 3 - AHEAD):
        for name in "abc":
            assert world.ask(name)
    everything = [chunk for asked in world.asked.values() for chunk in asked]
    assert sorted(everything) == list(range(CHUNKS - 3 * AHEAD))


def test_a_second_replica_takes_what_the_first_has_not_asked_for() -> None:
    world = complete()
    world.join("a")
    first = [world.ask("a") for _ in range(5)]
    world.join("b")
    assert all(first)
    assert len(world.offered["a"].difference(world.asked["a"])) == AHEAD
    assert len(world.offered["b"]) == AHEAD
    assert not world.offered["b"] & world.offered["a"]


def test_once_all_were_offered_everybody_is_offered_everything() -> None:
    world = complete()
    world.join(*"ab")
    while world.ask("a") and world.asked["a"] != list(range(CHUNKS)):
        pass
    for name in "ab":
        assert world.offered[name] == set(range(CHUNKS))


def test_a_slow_replica_does_not_hold_chunks_back() -> None:
    world = complete()
    world.join("slow", "quick")
    taken = 0
    while len(world.offered["quick"]) < CHUNKS:
        assert world.ask("quick")
        taken += 1
    assert taken <= CHUNKS - AHEAD


def test_what_a_replica_has_already_is_not_kept_for_it() -> None:
    world = complete()
    world.join("a", has=tuple(range(CHUNKS // 2)))
    world.join("b")
    assert world.offered["b"] <= set(range(CHUNKS // 2, CHUNKS))


def test_who_got_an_offered_chunk_elsewhere_is_offered_another() -> None:
    world = complete()
    world.join(*"ab")
    (before,) = world.offered["a"]
    world.seeding.has("a", [before])
    world.hear()
    assert len(world.offered["a"]) == AHEAD + 1


def test_what_a_lost_replica_did_not_get_is_offered_to_others() -> None:
    world = complete()
    world.join(*"abc")
    (lost,) = world.offered["a"]
    world.leave("a")
    seen = set()
    while not seen >= set(range(CHUNKS)):
        seen |= world.offered["b"] | world.offered["c"]
        assert world.ask("b") or world.ask("c") or lost in seen
    assert lost in seen


def test_the_next_group_is_dealt_to_again() -> None:
    world = complete()
    world.join(*"ab")
    while world.ask("a") or world.ask("b"):
        pass
    world.leave("a")
    world.leave("b")
    world.join(*"cd")
    assert not world.offered["c"] & world.offered["d"]
    assert len(world.offered["d"]) == AHEAD


def test_a_source_that_still_reads_offers_each_chunk_to_one() -> None:
    world = Replicas(SuperSeeding(CHUNKS, ()))
    world.join(*"abc")
    assert not any(world.offered.values())
    for chunk in range(CHUNKS - 1):
        world.seeding.gain([chunk])
        world.hear()
        for name in "abc":
            world.ask(name)
    counts = Counter(chunk for offered in world.offered.values() for chunk in offered)
    assert set(counts) == set(range(CHUNKS - 1)) and set(counts.values()) == {1}
    world.seeding.gain([CHUNKS - 1])
    world.hear()
    while any(world.ask(name) for name in "abc"):
        pass
    assert all(offered == set(range(CHUNKS)) for offered in world.offered.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "ask", "leave", "gain", "elsewhere"]),
            st.sampled_from("abcd"),
            st.integers(0, CHUNKS - 1),
        ),
        max_size=60,
    )
)
def test_whatever_happens_those_who_remain_are_offered_everything(
    steps: list[tuple[str, str, int]],
) -> None:
    world = Replicas(SuperSeeding(CHUNKS, ()))
    for step, name, chunk in steps:
        match step:
            case "join" if name not in world.offered:
                world.join(name)
            case "ask" if name in world.offered:
                world.ask(name)
            case "leave" if name in world.offered:
                world.leave(name)
            case "gain":
                world.seeding.gain([chunk])
                world.hear()
            case "elsewhere" if name in world.offered:
                world.seeding.has(name, [chunk])
                world.hear()
    if not world.offered:
        world.join("a")
    world.seeding.gain(range(CHUNKS))
    world.hear()
    # Those that ask get on, whatever the others do.
    name = next(iter(world.offered))
    while world.ask(name):
        pass
    for other in list(world.offered)[1:]:
        while world.ask(other):
            pass
    assert all(offered == set(range(CHUNKS)) for offered in world.offered.values())
