import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from netmesh.core.claims import Claim
from netmesh.core.effects import Reply, Send
from netmesh.core.engine import Engine
from netmesh.core.events import Connection, Contacts, Publish, Received, Tick
from netmesh.core.messages import (
    NOBODY,
    Ack,
    Busy,
    Gossip,
    Message,
    Observe,
    Ping,
    Relay,
    State,
)
from netmesh.core.records import (
    BUCKETS,
    Generation,
    MemberId,
    Status,
    new_generation,
    new_record,
    pack_advert,
)
from netmesh.core.settings import ProtocolSettings
from netmesh.core.states import Cause
from netmesh.core.wire import Codec
from netsim.world import EPOCH_MS

from .test_wire import messages
from .town import Town

ME = MemberId("10.0.0.1:17946")


def engine() -> Engine:
    me = new_record(ME, new_generation(EPOCH_MS, 1), {"model": "m"})
    return Engine(ProtocolSettings(), me, random.Random(1))


def test_the_first_deadline_is_at_once() -> None:
    assert engine().deadline() == float("-inf")


def test_a_new_engine_knows_itself() -> None:
    made = engine()
    made.handle(Tick(), 5.0)
    (member,) = made.members()
    assert member.me and member.selectable and member.advert == {"model": "m"}
    assert (member.host, member.age_s) == ("10.0.0.1", 0.0)


def test_ages_come_from_generations_and_grow() -> None:
    town = Town()
    a = town.start("10.0.0.1:1")
    town.run(10.0)
    b = town.start("10.0.0.2:1", (a,))
    town.run(5.0)
    ages = {m.id: round(m.age_s) for m in town.engine(b).members()}
    assert ages == {a: 15, b: 5}


def test_a_ping_is_answered_over_its_connection() -> None:
    made = engine()
    ping = Ping(MemberId("10.0.0.2:1"), Generation(9), 77, 0, 1)
    replies = [
        e for e in made.handle(Received(Connection(b"c"), ping), 5.0) if isinstance(e, Reply)
    ]
    assert [e.to for e in replies] == [Connection(b"c")]
    assert isinstance(replies[0].message, Ack) and replies[0].message.sequence == 77


def test_an_observer_gets_pages_and_is_never_a_member() -> None:
    town = Town()
    ids = town.grow(5)
    question = Observe(NOBODY, Generation(0), 0)
    effects = town.engine(ids[0]).handle(Received(Connection(b"o"), question), town.now)
    (reply,) = [e.message for e in effects if isinstance(e, Reply)]
    assert isinstance(reply, State) and reply.cursor is None
    assert {c.id for c in reply.claims} == set(ids)
    assert town.engine(ids[0]).size == 5
    past_the_end = Observe(NOBODY, Generation(0), BUCKETS)
    effects = town.engine(ids[0]).handle(Received(Connection(b"o"), past_the_end), town.now)
    (empty,) = [e.message for e in effects if isinstance(e, Reply)]
    assert isinstance(empty, State) and (empty.claims, empty.cursor) == ((), None)
    assert empty.clock_ms is not None and empty.clock_ms == reply.clock_ms


def test_time_that_runs_backwards_is_survived() -> None:
    made = engine()
    made.handle(Contacts(()), 100.0)
    made.handle(Tick(), 50.0)
    assert made.deadline() >= 100.0


def test_the_same_seed_gives_the_same_history() -> None:
    def history() -> list[tuple[int, int]]:
        town = Town(seed=4, checked=False)
        town.grow(8)
        town.run(5.0)
        return [(town.world.handled, town.engine(one).root) for one in town.running()]

    assert history() == history()


@settings(max_examples=30)
@given(st.lists(st.tuples(messages, st.floats(0, 3)), max_size=12))
def test_no_sequence_of_messages_breaks_the_engine(told: list[tuple[Message, float]]) -> None:
    made, now, codec = engine(), 100.0, Codec("x")
    for message, wait in told:
        now += wait
        for effect in made.handle(Received(Connection(b"c"), message), now):
            if isinstance(effect, Send | Reply):
                codec.encode(effect.message)
        made.check()
        for _ in range(3):
            if made.deadline() <= now:
                made.handle(Tick(), now)
                made.check()
    mine = made.record(ME)
    assert mine is not None and mine.status is Status.ALIVE


@settings(max_examples=30)
@given(st.lists(st.tuples(messages, st.floats(0, 3)), max_size=12))
def test_the_changes_of_all_events_add_up_to_the_view(told: list[tuple[Message, float]]) -> None:
    made, now = engine(), 100.0
    mine = made.record(ME)
    assert mine is not None
    view = {ME: mine}
    for message, wait in told:
        now += wait
        for event in (Received(Connection(b"c"), message), Tick()):
            made.handle(event, now)
            made.check()
            for change in made.changes:
                assert change.old == view.get(change.new.id)
                view[change.new.id] = change.new
    assert {m: made.record(m) for m in view} == view
    assert {m.id for m in made.members()} == set(view)
    assert all(view[m.id].status is m.status for m in made.members())


def test_an_event_that_changes_nothing_leaves_no_changes() -> None:
    made = engine()
    made.handle(Publish({"model": "n"}), 5.0)
    assert [change.causes for change in made.changes] == [(Cause.ADVERTISES,)]
    made.handle(Tick(), 5.0)
    assert made.changes == []


def test_what_a_limit_keeps_out_is_counted() -> None:
    counters: Counter[str] = Counter()
    me = new_record(ME, new_generation(EPOCH_MS, 1), {"model": "m"})
    tiny = replace(ProtocolSettings(), member_limit=3, accuser_burst=1)
    made = Engine(tiny, me, random.Random(1), counters)
    advert = pack_advert({})
    ids = [MemberId(f"10.0.1.{n}:1") for n in range(4)]
    new = tuple(Claim(i, Generation(5), 0, Status.ALIVE, 1, advert) for i in ids)
    dead = tuple(Claim(i, Generation(5), 0, Status.DEAD, 1) for i in ids)
    for claims in (new, dead):
        made.handle(Received(Connection(b"c"), Gossip(ids[0], Generation(5), claims)), 5.0)
    made.handle(Received(Connection(b"c"), Gossip(ids[1], Generation(4), ())), 5.0)
    for sequence in range(300):
        asked = Relay(ids[1], Generation(5), sequence, ids[2])
        made.handle(Received(Connection(b"c"), asked), 5.0)
    kept_out = {name: count for name, count in counters.items() if name.startswith("dropped.")}
    assert kept_out == {
        "dropped.member_limit": 2,
        "dropped.accuser_limit": 1,
        "dropped.old_generation": 1,
        "dropped.relay_limit": 44,
    }


def test_a_crowd_of_observers_is_told_to_come_back() -> None:
    town = Town()
    ids = town.grow(2)
    question = Observe(NOBODY, Generation(0), 0)
    kinds = []
    for index in range(12):
        event = Received(Connection(b"%d" % index), question)
        effects = town.engine(ids[0]).handle(event, town.now)
        kinds += [type(e.message) for e in effects if isinstance(e, Reply)]
    assert kinds == [State] * 8 + [Busy] * 4
