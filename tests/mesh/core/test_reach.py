"""Whom a member may talk to, by id alone."""

from collections import Counter
from ipaddress import ip_network
from random import Random

import pytest

from netmesh.core.claims import Claim
from netmesh.core.effects import Dial, Send, Watch
from netmesh.core.engine import Engine
from netmesh.core.events import Connection, Contacts, Received, Tick
from netmesh.core.messages import Exchange, Gossip, Join, Ping, Relay, State
from netmesh.core.reach import EVERYWHERE, Reach
from netmesh.core.records import (
    Generation,
    MemberId,
    Status,
    new_generation,
    new_record,
    pack_advert,
)
from netmesh.core.settings import ProtocolSettings
from netsim.world import EPOCH_MS

KEYLESS = Reach.of("127.0.0.1:17946")
PRIVATE = Reach.of("10.0.0.1:17946", (ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
OPEN = Reach.of("10.0.0.1:17946")

NOWHERE = ["0.0.0.0:5", "[::]:5", "224.0.0.1:5", "[ff02::1]:5", "[::ffff:0.0.0.0]:5"]
NAMES = ["localhost:5", "node.example:5", "metadata:80", ":5", "", "10.0.0:5", "[::1:5"]
LOOPBACK = ["127.0.0.1:5", "127.9.9.9:5", "[::1]:5", "[::ffff:127.0.0.1]:5"]
REMOTE = ["10.0.0.2:5", "[fd00::1]:5", "[fe80::1%eth0]:5", "[::ffff:10.0.0.2]:5", "8.8.8.8:53"]


@pytest.mark.parametrize("where", LOOPBACK)
def test_loopback_is_for_those_on_loopback(where: str) -> None:
    assert KEYLESS.allows(where) and not OPEN.allows(where) and not PRIVATE.allows(where)
    assert Reach(None, PRIVATE.networks).allows(where)


@pytest.mark.parametrize("where", REMOTE)
def test_a_member_on_loopback_reaches_nobody_else(where: str) -> None:
    assert not KEYLESS.allows(where)
    assert OPEN.allows(where)


@pytest.mark.parametrize("where", NAMES + NOWHERE)
@pytest.mark.parametrize("reach", [KEYLESS, OPEN, PRIVATE])
def test_names_and_addresses_of_nobody_lead_nowhere(reach: Reach, where: str) -> None:
    assert not reach.allows(where)


def test_allowed_networks_leave_out_all_others() -> None:
    inside = ["10.255.0.1:5", "[fd12::1]:5", "[::ffff:10.0.0.2]:5"]
    outside = ["11.0.0.1:5", "[fe80::1]:5", "[::ffff:11.0.0.1]:5", "8.8.8.8:53"]
    assert all(PRIVATE.allows(where) for where in inside)
    assert not any(PRIVATE.allows(where) for where in outside)


def test_everywhere_is_everywhere() -> None:
    assert all(EVERYWHERE.allows(where) for where in (*NAMES, *NOWHERE, *LOOPBACK, *REMOTE))


def engine(me: str) -> tuple[Engine, Counter[str]]:
    counters: Counter[str] = Counter()
    record = new_record(MemberId(me), new_generation(EPOCH_MS, 1), {})
    made = Engine(ProtocolSettings(), record, Random(1), counters, Reach.of(me))
    made.handle(Contacts(()), 100.0)
    return made, counters


@pytest.mark.parametrize(
    ("me", "friend", "stranger"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", "10.99.0.2:9999"),
        ("10.0.0.1:1", "10.0.0.2:1", "127.0.0.1:17946"),
    ],
)
def test_no_message_makes_a_member_talk_to_an_id_beyond_its_reach(
    me: str, friend: str, stranger: str
) -> None:
    made, counters = engine(me)
    generation = Generation(new_generation(EPOCH_MS, 2))
    there, here = MemberId(stranger), MemberId(friend)
    claim = Claim(there, generation, 0, Status.ALIVE, 1, pack_advert({}))
    bare = Claim(there, generation, 0, Status.ALIVE, 1)
    ours = Claim(here, generation, 0, Status.ALIVE, 1, pack_advert({}))
    messages = [
        Ping(there, generation, 1, 5, 5),
        Join(there, generation, 1, 0, claim),
        Join(here, generation, 2, 0, ours),
        Gossip(here, generation, (claim, bare)),
        Exchange(here, generation, False, (claim,), (there,)),
        State(here, generation, 1, 7, 9, (claim, bare), 3),
        Relay(here, generation, 4, there),
    ]
    effects = [
        effect
        for number, message in enumerate(messages)
        for effect in made.handle(Received(Connection(b"c"), message), 100.0 + number / 100)
    ]
    effects += made.handle(Contacts((there,)), 101.0)
    now = 101.0
    while now < 130.0:
        now = max(now + 0.01, made.deadline())
        effects += made.handle(Tick(), now)
    asked = {effect.to for effect in effects if isinstance(effect, Send)}
    asked |= {effect.id for effect in effects if isinstance(effect, Dial)}
    for effect in effects:
        if isinstance(effect, Watch):
            asked |= effect.ids
    assert asked == {here}
    assert made.record(there) is None and made.record(here) is not None
    assert counters["dropped.not_reachable_from_here"] >= 6
