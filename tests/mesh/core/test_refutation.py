"""What a member answers to claims about itself, and which generations anybody believes."""

from collections import Counter
from random import Random

from netmesh.core.claims import Claim, head
from netmesh.core.effects import Displaced, Effect, Log, Send
from netmesh.core.engine import Engine
from netmesh.core.events import Connection, Received, Tick
from netmesh.core.messages import Gossip, Join, Message, Observe, Ping
from netmesh.core.records import (
    DAY_MS,
    MAX_GENERATION,
    Generation,
    MemberId,
    Status,
    new_generation,
    new_record,
    pack_advert,
    started_ms,
)
from netmesh.core.settings import ProtocolSettings
from netsim.world import EPOCH_MS

ME, OTHER, THIRD = (MemberId(f"10.0.0.{number}:1") for number in (1, 2, 3))
YEARS_MS = 20 * 365 * DAY_MS


class Single:
    """One engine whose wall clock shows what it is told."""

    def __init__(self, clock_ms: int = EPOCH_MS) -> None:
        self.clock_ms = clock_ms
        self.now = 100.0
        self.counters: Counter[str] = Counter()
        self.logs: list[str] = []
        self.displaced: list[Displaced] = []
        self.sent: list[Message] = []
        self.engine = Engine(
            ProtocolSettings(),
            new_record(ME, new_generation(clock_ms, 5), {}),
            Random(1),
            self.counters,
            wall_ms=lambda: self.clock_ms,
        )
        self.hear(Join(OTHER, self.started(EPOCH_MS), 1, 0, self.alive(OTHER, EPOCH_MS)))

    def started(self, clock_ms: int) -> Generation:
        return new_generation(clock_ms, 7)

    def alive(self, member: MemberId, clock_ms: int) -> Claim:
        generation = self.started(clock_ms)
        return Claim(member, generation, 0, Status.ALIVE, 1, pack_advert({}))

    def hear(self, message: Message) -> list[Effect]:
        effects = self.engine.handle(Received(Connection(b"c"), message), self.now)
        self.note(effects)
        return effects

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.note(self.engine.handle(Tick(), self.now))

    def note(self, effects: list[Effect]) -> None:
        self.logs += [effect.message for effect in effects if isinstance(effect, Log)]
        self.displaced += [effect for effect in effects if isinstance(effect, Displaced)]
        self.sent += [effect.message for effect in effects if isinstance(effect, Send)]

    def reached(self) -> None:
        """Somebody pings me at my address."""
        self.hear(Ping(OTHER, self.started(EPOCH_MS), 9, 0, 0, (), ME))

    def told(self, *claims: Claim) -> None:
        self.hear(Gossip(OTHER, self.started(EPOCH_MS), claims))

    def status(self, member: MemberId) -> Status | None:
        record = self.engine.record(member)
        return None if record is None else record.status


def test_nobody_has_started_more_than_a_day_from_now() -> None:
    one = Single()
    one.told(one.alive(THIRD, EPOCH_MS + DAY_MS - 1000))
    assert one.status(THIRD) is Status.ALIVE
    for _ in range(5):
        one.told(one.alive(THIRD, EPOCH_MS + 2 * DAY_MS), one.alive(THIRD, EPOCH_MS + YEARS_MS))
    record = one.engine.record(THIRD)
    assert record is not None and started_ms(record.generation) < EPOCH_MS + DAY_MS
    assert one.counters["dropped.generation_ahead"] == 10
    assert 1 <= sum("more than a day from now" in line for line in one.logs) <= 4


def test_a_claim_beyond_the_horizon_about_me_is_not_answered() -> None:
    one = Single()
    before = one.engine.generation
    one.told(one.alive(ME, EPOCH_MS + YEARS_MS))
    assert one.engine.generation == before
    one.told(one.alive(ME, EPOCH_MS + 1000))
    assert one.engine.generation > before


def test_a_clock_that_is_not_set_limits_nobody() -> None:
    one = Single(clock_ms=0)
    assert one.status(OTHER) is Status.ALIVE
    one.told(one.alive(THIRD, EPOCH_MS))
    assert one.status(THIRD) is Status.ALIVE


def test_a_tombstone_that_no_right_clock_made_locks_no_address_out() -> None:
    """A mesh whose clocks were wrong remembers the dead of 2045; a restart today is welcome."""
    one = Single(clock_ms=EPOCH_MS + YEARS_MS)
    wrong = one.alive(THIRD, EPOCH_MS + YEARS_MS)
    one.hear(Join(THIRD, wrong.generation, 1, 0, wrong))
    gone = Claim(THIRD, wrong.generation, 1, Status.LEFT, 1)
    one.hear(Gossip(THIRD, wrong.generation, (gone,)))
    assert one.status(THIRD) is Status.LEFT
    one.clock_ms = EPOCH_MS
    right = one.alive(THIRD, EPOCH_MS)
    one.hear(Join(THIRD, right.generation, 1, 0, right))
    assert one.status(THIRD) is Status.ALIVE


def test_a_process_with_a_clock_beyond_the_format_leaves_room_to_outbid_it() -> None:
    late = new_generation(10**15, 0)
    assert MAX_GENERATION - late > 1000 * 2**20
    one = Single(clock_ms=10**15)
    assert one.engine.generation <= MAX_GENERATION
    one.told(Claim(ME, Generation(late + 2**22), 0, Status.ALIVE, 1, pack_advert({})))
    assert one.engine.generation > late + 2**22


def fight(one: Single, seconds: int, *, reached: bool) -> int:
    """Somebody claims my address again each time that I take it back; returns how often I did."""
    outbids = 0
    for _ in range(seconds):
        one.pass_seconds(1)
        if reached:
            one.reached()
        before = one.engine.generation
        one.told(Claim(ME, Generation(before + 1), 0, Status.ALIVE, 1, pack_advert({})))
        outbids += one.engine.generation != before
    return outbids


def test_whom_nobody_reaches_gives_its_address_up_and_says_so_once() -> None:
    one = Single()
    assert fight(one, 40, reached=False) == 3
    assert [line for line in one.logs if "MESH_ADVERTISE" in line] == [
        line for line in one.logs if "too, and lives" in line
    ]
    assert one.counters["outbids.given_up"] == 1
    assert one.displaced == [Displaced(elsewhere=True)]
    assert fight(one, 400, reached=False) == 0, "it goes on outbidding"
    assert sum("taking it back" in line for line in one.logs) <= 2
    assert sum("MESH_ADVERTISE" in line for line in one.logs) == 1


def test_who_stood_back_takes_its_address_back_once_others_reach_it_there() -> None:
    one = Single()
    fight(one, 200, reached=False)
    before = one.engine.generation
    one.reached()
    one.told(Claim(ME, Generation(before + 5), 0, Status.DEAD, 1, pack_advert({})))
    assert one.engine.generation > before + 5


def test_who_stands_back_goes_on_looking_at_the_others() -> None:
    one = Single()
    fight(one, 10, reached=False)
    one.sent.clear()
    one.pass_seconds(95)
    assert sum(isinstance(message, Observe) for message in one.sent) in (3, 4)


def test_a_generation_that_leaves_no_room_displaces_at_once() -> None:
    one = Single(clock_ms=10**15)
    one.told(Claim(ME, Generation(MAX_GENERATION), 0, Status.ALIVE, 1, pack_advert({})))
    assert one.displaced == [Displaced(elsewhere=True)]


def test_whom_nobody_ever_reached_stops_refuting_and_says_why() -> None:
    """At a wrong address it would come and go in all views for ever."""
    one = Single()

    def accuse() -> int:
        mine = one.engine.record(ME)
        assert mine is not None
        one.told(Claim(ME, mine.generation, mine.incarnation, Status.DEAD, 1))
        return one.counters["refuted"]

    for _ in range(20):
        one.pass_seconds(1)
        accuse()
    assert one.counters["refuted"] == 5
    assert sum("nobody has reached this member" in line for line in one.logs) == 1
    one.reached()
    assert accuse() == 6


def test_nobody_reaches_a_member_that_others_do_not_take_in() -> None:
    one = Single()
    one.pass_seconds(180)
    assert sum("nobody has reached this member" in line for line in one.logs) == 1
    reached = Single()
    for _ in range(180):
        reached.pass_seconds(1)
        reached.reached()
    assert not any("nobody has reached" in line for line in reached.logs)


def test_a_member_from_a_clock_that_was_ahead_starts_again_once_the_clock_is_right() -> None:
    one = Single(clock_ms=EPOCH_MS + 2 * DAY_MS)
    one.pass_seconds(90)
    assert one.displaced == []
    one.clock_ms = EPOCH_MS
    one.pass_seconds(20)
    assert one.displaced and set(one.displaced) == {Displaced(elsewhere=False)}


def test_a_clock_that_jumps_back_displaces_nobody_that_others_reach() -> None:
    one = Single()
    one.clock_ms = EPOCH_MS - 3 * DAY_MS
    for _ in range(90):
        one.pass_seconds(1)
        one.reached()
    assert one.displaced == []


def test_the_one_that_is_reached_at_the_address_keeps_it() -> None:
    one = Single()
    assert fight(one, 25, reached=True) == 25
    assert one.counters["outbids.given_up"] == 0


def test_refutations_are_told_the_first_few_times_only() -> None:
    one = Single()
    for _ in range(40):
        one.now += 0.2
        one.reached()
        mine = one.engine.record(ME)
        assert mine is not None
        suspect = head(mine, (OTHER,))
        one.told(Claim(ME, suspect.generation, suspect.incarnation, Status.SUSPECT, 1))
    assert one.counters["refuted"] == 40
    assert sum("refuted" in line for line in one.logs) == 6


def test_an_age_is_right_after_an_outbid() -> None:
    one = Single()
    one.now += 50.0
    one.clock_ms += 50_000
    one.told(one.alive(ME, EPOCH_MS + 3_600_000))
    ages = {member.id: member.age_s for member in one.engine.members()}
    assert abs(ages[OTHER] - 50.0) < 1.0


def test_goodbyes_that_others_tell_are_limited_as_deaths_are() -> None:
    one = Single()
    burst = ProtocolSettings().accuser_burst
    members = [MemberId(f"10.0.1.{number}:1") for number in range(burst + 20)]
    for member in members:
        me = one.alive(member, EPOCH_MS)
        one.hear(Join(member, me.generation, 1, 0, me))
    one.told(*(Claim(m, one.started(EPOCH_MS), 1, Status.LEFT, 1) for m in members))
    statuses = Counter(one.status(member) for member in members)
    assert statuses == {Status.LEFT: burst, Status.SUSPECT: 20}
    # What a member says of itself is believed.
    last = members[-1]
    one.hear(
        Gossip(
            last, one.started(EPOCH_MS), (Claim(last, one.started(EPOCH_MS), 2, Status.LEFT, 1),)
        )
    )
    assert one.status(last) is Status.LEFT
