from netmesh.core.claims import Claim
from netmesh.core.effects import Reply
from netmesh.core.events import Connection, Contacts, Received
from netmesh.core.messages import Busy, Join
from netmesh.core.records import MemberId, Status, new_generation, pack_advert
from netsim.world import EPOCH_MS

from .town import Town


def test_two_members_find_each_other_through_one_contact() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    b = town.start("10.0.0.2:1", (a,))
    assert town.until(town.converged, 3.0)
    assert town.until(lambda: town.engine(b).joined, 2.0)


def test_without_any_contact_a_member_is_joined_alone() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    assert town.engine(a).joined


def test_my_own_address_is_no_contact() -> None:
    town = Town()
    a = town.start("10.0.0.1:1", ("10.0.0.1:1",))
    assert town.engine(a).joined


def test_a_member_is_not_joined_before_its_contact_answered_or_failed() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    b = town.start("10.0.0.2:1", (a,))
    assert not town.engine(b).joined


def test_unreachable_contacts_mean_starting_alone() -> None:
    town = Town()
    a = town.start("10.0.0.1:1", ("10.0.0.8:1", "10.0.0.9:1"))
    assert town.until(lambda: town.engine(a).joined, 3.0)


def test_a_split_start_heals_when_the_contact_comes_up_later() -> None:
    town = Town()
    a = town.start("10.0.0.1:1", ("10.0.0.2:1",))
    town.run(10.0)
    town.start("10.0.0.2:1")
    assert town.until(town.converged, 8.0)
    assert town.engine(a).size == 2


def test_contacts_found_again_later_are_used() -> None:
    town = Town()
    a, b = town.start("10.0.0.1:1"), town.start("10.0.0.2:1")
    town.run(3.0)
    town.give(a, Contacts((b,)))
    assert town.until(town.converged, 3.0)


def test_a_contact_that_accepts_but_never_answers_does_not_block_the_start() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    town.stall(a, 1000)
    b = town.start("10.0.0.2:1", (a,))
    assert town.until(lambda: town.engine(b).joined, 6.0)


def test_a_hundred_members_with_one_seed_see_each_other_within_seconds() -> None:
    town = Town(checked=False, advert={"model": "x" * 600})
    seed = town.start(town.name(0))
    for index in range(1, 100):
        town.start(town.name(index), (seed,))
    assert town.until(town.converged, 8.0)
    assert town.until(lambda: all(town.engine(m).joined for m in town.running()), 3.0)


def test_only_eight_are_served_at_once_and_the_rest_is_sent_elsewhere() -> None:
    town = Town()
    seed = town.start("10.0.0.1:1")
    replies = []
    for index in range(20):
        joiner = MemberId(f"10.0.1.{index}:1")
        generation = new_generation(EPOCH_MS, index)
        me = Claim(joiner, generation, 0, Status.ALIVE, 1, pack_advert({}))
        event = Received(Connection(b"x"), Join(joiner, generation, index + 1, 0, me))
        effects = town.engine(seed).handle(event, town.now)
        replies += [e.message for e in effects if isinstance(e, Reply)]
    busy = [m for m in replies if isinstance(m, Busy)]
    assert len(replies) == 20 and len(busy) == 12
    assert all(m.retry_after_ms > 0 and m.claims for m in busy)
    assert town.engine(seed).size == 21


def test_contacts_that_do_not_answer_are_asked_ever_more_seldom() -> None:
    """64 seeds where nobody listens once cost 12.7 connects a second, for ever."""
    town = Town()
    seeds = [f"10.9.0.{number}:1" for number in range(1, 65)]
    town.start("10.0.0.1:1", seeds)
    town.run(300.0)
    town.world.measure(on=True)
    town.run(120.0)
    assert 0 < town.world.connects / 120.0 < 1.5


def test_members_share_the_cost_of_contacts_that_do_not_answer() -> None:
    town = Town(checked=False)
    seeds = [f"10.9.0.{number}:1" for number in range(1, 9)]
    first = town.start("10.0.0.1:1", seeds)
    for number in range(2, 5):
        town.start(f"10.0.0.{number}:1", (first, *seeds))
    town.run(240.0)
    town.world.measure(on=True)
    town.run(120.0)
    # 8 contacts in 120 s, with a pause of a quarter of 240 s: once 4 members made 770 connects.
    assert town.world.connects <= 8 * 120 / 60 * 2


def test_a_seed_that_dies_is_not_asked_every_second() -> None:
    town = Town(checked=False)
    ids = town.grow(4)
    town.crash(ids[0])
    town.run(60.0)
    town.world.measure(on=True)
    town.run(60.0)
    assert town.world.connects <= 15


def test_whoever_is_left_alone_asks_its_contacts_soon() -> None:
    town = Town(checked=False)
    ids = town.grow(4)
    town.cut({ids[3]})
    town.run(200.0)
    town.mend()
    assert town.until(town.converged, 120.0)
