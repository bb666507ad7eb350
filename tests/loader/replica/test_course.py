"""Whatever sources do, a pull ends when storage would have been done, and its budget later."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.replica.budget import Budget
from netloader.replica.course import Ask, Course, GiveUp, Standing
from netloader.replica.outcome import (
    AskLater,
    Brought,
    Contradicted,
    Corrupt,
    Declined,
    Ended,
    Faulty,
    Lost,
    Outcome,
    Port,
    Unopened,
    Unreached,
)
from netloader.replica.settings import PullSettings

MODEL = 200_000_000
SETTINGS = PullSettings()
STORAGE_S = MODEL / SETTINGS.min_rate
FOREVER_S = 1e6


@dataclass(frozen=True)
class Try:
    """What one try of a candidate does."""

    seconds: float
    """Until it ends; a try that does not answer ends when the time to connect is over."""
    how: Outcome
    rate: float = 0.0
    """Bytes per second that it delivers meanwhile, in chunks of a whole second's."""


@dataclass
class Played:
    """A pull in virtual time."""

    tries: dict[str, list[Try]]
    settings: PullSettings = SETTINGS
    has_storage: bool = True
    must_wait: bool = False
    measured_rate: float | None = None
    asked: list[str] = field(default_factory=list)
    now: float = 0.0
    new_every_s: float = FOREVER_S
    """How often each candidate starts again, as another process."""

    def candidates(self) -> list[Candidate]:
        generation = 1 + int(self.now / self.new_every_s)
        return [Candidate(name, BY_MESH, generation) for name in self.tries]

    def run(self) -> str:
        """Why the pull ended; empty when everything has come."""
        budget = Budget(
            self.settings,
            MODEL,
            0.0,
            has_storage=self.has_storage,
            measured_rate=self.measured_rate,
        )
        course = Course(self.settings, ("tcp",), budget, 0.0)
        course.begin(budget, 0.0, wait_for_one=self.must_wait)
        streams: dict[str, tuple[Candidate, Try, float, float]] = {}
        arrived = 0.0
        while True:
            for name, (candidate, one, began, ends) in list(streams.items()):
                if one.rate and int(self.now - began) > int(
                    self.now - self.settings.look_s - began
                ):
                    arrived = min(MODEL, arrived + one.rate)
                if self.now >= ends:
                    del streams[name]
                    if isinstance(one.how, Corrupt) and one.how.void:
                        arrived = 0.0
                    brought = Brought(int(one.rate * (ends - began)), ends - began)
                    course.ended(candidate, Ended(one.how, bool(one.rate), brought), self.now)
            if arrived >= MODEL:
                return ""
            served = any(one.rate for _, one, _, _ in streams.values())
            move = course.next(
                Standing(set(streams), served, int(arrived)), self.candidates, self.now
            )
            if isinstance(move, GiveUp):
                return move.reason
            assert isinstance(move, Ask)
            for candidate, _, connect_s in move.sources:
                name = candidate.endpoint
                self.asked.append(name)
                left = self.tries[name]
                one = left.pop(0) if len(left) > 1 else left[0]
                lasts = connect_s if isinstance(one.how, Unreached) else one.seconds
                streams[name] = (candidate, one, self.now, self.now + lasts)
            self.now += self.settings.look_s
            assert self.now < FOREVER_S, "the pull does not end"


OUTCOMES = st.one_of(
    st.builds(Lost, st.just("cut")),
    st.builds(AskLater, st.just("busy"), st.floats(0, 100)),
    st.builds(Unopened, st.just("no group"), st.just("tcp")),
    st.builds(Unreached, st.just("dropped"), st.sampled_from(Port)),
    st.builds(Declined, st.just("no")),
    st.builds(Contradicted, st.just("others")),
    st.builds(Corrupt, st.just("wrong"), st.just(0), st.just(("a:1", 1)), st.booleans()),
    st.builds(Faulty, st.just("nonsense")),
)
TRIES = st.builds(
    Try,
    st.one_of(st.floats(0, 40), st.just(FOREVER_S)),
    OUTCOMES,
    st.one_of(st.just(0.0), st.floats(1, 2 * SETTINGS.min_rate)),
)
TRICKLE = Try(FOREVER_S, Lost("never"), 64 * 1024 / 30)


def of(*tries: list[Try]) -> dict[str, list[Try]]:
    """Candidates on hosts of their own."""
    return {f"10.0.{n // 250}.{n % 250}:1": one for n, one in enumerate(tries)}


class TestBound:
    @given(
        st.lists(st.lists(TRIES, min_size=1, max_size=3), max_size=60),
        st.booleans(),
        st.sampled_from((SETTINGS.look_s, 3.0, FOREVER_S)),
        st.one_of(st.none(), st.floats(1.0, 1e9)),
    )
    @example([[TRICKLE]], False, FOREVER_S, None)
    @example([[TRICKLE]] * 60, False, SETTINGS.look_s, None)
    @example([[Try(FOREVER_S, Lost("never"))]] * 60, True, FOREVER_S, None)
    @example([[Try(0, AskLater("busy", 0))]] * 60, True, SETTINGS.look_s, None)
    @example([[Try(1, Corrupt("wrong", 0, ("a:1", 1), True), 1e8)]] * 60, False, FOREVER_S, None)
    @example(
        [[Try(1, Corrupt("wrong", 0, ("a:1", 1), True), 1e8)]] * 60, False, SETTINGS.look_s, None
    )
    @example([[Try(0.5, Lost("cut"), 1.0)]] * 60, False, SETTINGS.look_s, None)
    def test_any_number_of_sources_that_do_anything(
        self,
        tries: list[list[Try]],
        must_wait: bool,
        new_every_s: float,
        measured_rate: float | None,
    ) -> None:
        played = Played(
            of(*(list(one) for one in tries)),
            must_wait=must_wait,
            new_every_s=new_every_s,
            measured_rate=measured_rate,
        )
        played.run()
        storage_s = MODEL / max(SETTINGS.min_rate, measured_rate or 0.0)
        assert played.now <= SETTINGS.peer_budget_s + storage_s + SETTINGS.look_s

    @pytest.mark.parametrize("port", Port)
    @pytest.mark.parametrize("count", [24, 1000])
    def test_ports_that_drop_connects_cost_seconds(self, port: Port, count: int) -> None:
        played = Played(of(*([Try(0, Unreached("dropped", port))] for _ in range(count))))
        reason = played.run()
        assert "no source could be used" in reason
        assert ("32 sources failed in one way" in reason) == (count > 32)
        assert played.now < 20

    @pytest.mark.parametrize("new_every_s", [SETTINGS.look_s, 5.0])
    @pytest.mark.parametrize(
        "one",
        [Try(0, AskLater("busy", 0)), Try(0, AskLater("busy", 3600)), Try(0.1, Lost("cut"))],
        ids=["busy", "busy for long", "lost"],
    )
    def test_a_thousand_that_come_anew_cost_the_budget(self, one: Try, new_every_s: float) -> None:
        played = Played(of(*([one] for _ in range(1000))), new_every_s=new_every_s, must_wait=True)
        assert played.run()
        assert played.now <= SETTINGS.peer_budget_s

    def test_a_thousand_that_come_anew_behind_a_firewall_cost_seconds(self) -> None:
        dropped = Try(0, Unreached("dropped", Port.CONTROL))
        played = Played(of(*([dropped] for _ in range(1000))), new_every_s=SETTINGS.look_s)
        assert "32 sources failed in one way" in played.run()
        assert played.now < 20

    def test_silent_sources_cost_the_budget_and_the_last_are_named(self) -> None:
        played = Played(of(*([Try(9, Lost("silent"))] for _ in range(1000))))
        reason = played.run()
        assert "no verified progress in 30 s (PEER_BUDGET); asked last: 10.0." in reason
        assert reason.count(":1") == SETTINGS.max_sources
        assert played.now == SETTINGS.peer_budget_s

    def test_a_trickle_is_no_progress(self) -> None:
        played = Played(of([Try(FOREVER_S, Lost("never"), 10_000)]))
        assert "MIN_RATE" in played.run()
        assert played.now <= SETTINGS.peer_budget_s + 1

    def test_storage_that_was_measured_is_not_waited_for_longer_than_it_takes(self) -> None:
        tries = of([Try(FOREVER_S, Lost("never"), 5e6)])
        assert Played(tries).run() == ""
        fast = Played(tries, measured_rate=1e8)
        assert "sooner by 100 MB/s (measured on this host)" in fast.run()
        assert fast.now == SETTINGS.peer_budget_s
        # A figure below the setting proves nothing: the machine may have been busy.
        assert Played(tries, measured_rate=1e6).run() == ""
        assert Played(tries, measured_rate=1e9, has_storage=False).run() == ""

    def test_without_files_of_its_own_a_worker_waits_as_long_as_it_was_told(self) -> None:
        patient = PullSettings(source_timeout_s=100)
        played = Played({}, patient, has_storage=False, must_wait=True)
        assert played.run() == "no verified progress in 100 s (SOURCE_TIMEOUT)"
        assert played.now == 100

    def test_without_files_of_its_own_a_slow_source_is_better_than_none(self) -> None:
        slow = Try(FOREVER_S, Lost("never"), SETTINGS.min_rate / 20)
        played = Played(of([slow]), has_storage=False)
        assert played.run() == ""
        assert played.now > SETTINGS.peer_budget_s + STORAGE_S


class TestGoodSource:
    @pytest.mark.parametrize("last", [0, 23])
    @pytest.mark.parametrize("port", Port)
    def test_one_of_24_whose_ports_are_open_is_found(self, port: Port, last: int) -> None:
        tries = [[Try(0, Unreached("dropped", port))] for _ in range(24)]
        tries[last] = [Try(FOREVER_S, Lost("never"), 1e8)]
        played = Played(of(*tries))
        assert played.run() == ""
        assert played.now < 12

    def test_a_source_a_little_slower_than_storage_has_the_budget_as_well(self) -> None:
        played = Played(of([Try(FOREVER_S, Lost("never"), 0.6 * SETTINGS.min_rate)]))
        assert played.run() == ""

    def test_a_source_that_comes_back_goes_on(self) -> None:
        cut, whole = Try(5, Lost("cut"), 2e7), Try(FOREVER_S, Lost("never"), 2e7)
        played = Played(of([cut, whole]))
        assert played.run() == ""
        assert played.asked == ["10.0.0.0:1"] * 2

    def test_other_hosts_come_before_the_neighbours_of_a_port_that_does_not_answer(self) -> None:
        dropped = Try(0, Unreached("dropped", Port.DATA))
        neighbours = {f"10.0.0.1:{port}": [dropped] for port in range(10)}
        good = {"10.0.0.2:1": [Try(FOREVER_S, Lost("never"), 1e8)]}
        played = Played(neighbours | good)
        assert played.run() == ""
        assert played.asked.index("10.0.0.2:1") == SETTINGS.max_sources

    def test_after_a_delivery_nobody_is_given_up_for_what_others_did(self) -> None:
        dropped = [[Try(0, Unreached("dropped", Port.CONTROL))] for _ in range(31)]
        brings = [Try(2, Lost("cut"), 2e7), Try(0, Declined("gone"))]
        more = [[Try(0, Unreached("dropped", Port.CONTROL))] for _ in range(3)]
        last = [Try(FOREVER_S, Lost("never"), 1e8)]
        played = Played(of(*dropped, brings, *more, last))
        assert played.run() == ""
