from netmesh.core.claims import Claim
from netmesh.core.effects import Reply
from netmesh.core.events import Connection, Contacts, Received
from netmesh.core.messages import Busy, Join
from netmesh.core.records import MemberId, Status, new_generation, pack_advert

from .world import EPOCH_MS, World


def test_two_members_find_each_other_through_one_contact() -> None:
    world = World()
    a = world.start("10.0.0.1:1")
    b = world.start("10.0.0.2:1", (a,))
    assert world.until(world.converged, 3.0)
    assert world.until(lambda: world.engine(b).joined, 2.0)


def test_without_any_contact_a_member_is_joined_alone() -> None:
    world = World()
    a = world.start("10.0.0.1:1")
    assert world.engine(a).joined


def test_my_own_address_is_no_contact() -> None:
    world = World()
    a = world.start("10.0.0.1:1", ("10.0.0.1:1",))
    assert world.engine(a).joined


def test_a_member_is_not_joined_before_its_contact_answered_or_failed() -> None:
    world = World()
    a = world.start("10.0.0.1:1")
    b = world.start("10.0.0.2:1", (a,))
    assert not world.engine(b).joined


def test_unreachable_contacts_mean_starting_alone() -> None:
    world = World()
    a = world.start("10.0.0.1:1", ("10.0.0.8:1", "10.0.0.9:1"))
    assert world.until(lambda: world.engine(a).joined, 3.0)


def test_a_split_start_heals_when_the_contact_comes_up_later() -> None:
    world = World()
    a = world.start("10.0.0.1:1", ("10.0.0.2:1",))
    world.run(10.0)
    world.start("10.0.0.2:1")
    assert world.until(world.converged, 8.0)
    assert world.engine(a).size == 2


def test_contacts_found_again_later_are_used() -> None:
    world = World()
    a, b = world.start("10.0.0.1:1"), world.start("10.0.0.2:1")
    world.run(3.0)
    world.give(a, Contacts((b,)))
    assert world.until(world.converged, 3.0)


def test_a_contact_that_accepts_but_never_answers_does_not_block_the_start() -> None:
    world = World()
    a = world.start("10.0.0.1:1")
    world.stall(a, 1000)
    b = world.start("10.0.0.2:1", (a,))
    assert world.until(lambda: world.engine(b).joined, 6.0)


def test_a_hundred_members_with_one_seed_see_each_other_within_seconds() -> None:
    world = World(checked=False, advert={"model": "x" * 600})
    seed = world.start(world.name(0))
    for index in range(1, 100):
        world.start(world.name(index), (seed,))
    assert world.until(world.converged, 8.0)
    assert world.until(lambda: all(world.engine(m).joined for m in world.running()), 3.0)


def test_only_eight_are_served_at_once_and_the_rest_is_sent_elsewhere() -> None:
    world = World()
    seed = world.start("10.0.0.1:1")
    replies = []
    for index in range(20):
        joiner = MemberId(f"10.0.1.{index}:1")
        generation = new_generation(EPOCH_MS, index)
        me = Claim(joiner, generation, 0, Status.ALIVE, 1, pack_advert({}))
        event = Received(Connection(b"x"), Join(joiner, generation, index + 1, 0, me))
        effects = world.engine(seed).handle(event, world.now)
        replies += [e.message for e in effects if isinstance(e, Reply)]
    busy = [m for m in replies if isinstance(m, Busy)]
    assert len(replies) == 20 and len(busy) == 12
    assert all(m.retry_after_ms > 0 and m.claims for m in busy)
    assert world.engine(seed).size == 21
