"""Who has a place, who may speak for it, and who has to make room: bookkeeping without a socket."""

from __future__ import annotations

from dataclasses import dataclass, field

from netloader.source.policy.eviction import Usage
from netloader.source.policy.sessions import Sessions
from netloader.source.settings import SourceSettings


@dataclass
class Idle:
    """A session that says what a test lets it say."""

    id: str
    now: Usage = field(default_factory=lambda: Usage(at=0.0))

    def usage(self) -> Usage:
        return self.now


def places(*names: str, **limits: object) -> tuple[Sessions[Idle, str], list[Idle]]:
    """Sessions of these names, each with the connection `of <name>`."""
    settings: dict[str, object] = {"max_sessions": 2, "min_ending": 3, "timeout_s": 30, **limits}
    made: Sessions[Idle, str] = Sessions(SourceSettings(**settings))  # type: ignore[arg-type]
    sessions = [Idle(name) for name in names]
    for session in sessions:
        made.add(session, f"of {session.id}")
    return made, sessions


def test_places_are_taken_and_freed() -> None:
    made, _ = places("a")
    assert (len(made), made.full()) == (1, None)
    made.add(Idle("b"), "of b")
    assert made.full() == "all 2 sessions are taken"
    assert made.release("a") is not None
    assert (len(made), made.full()) == (1, None)


def test_sessions_that_are_ending_hold_no_place_but_are_bounded() -> None:
    made, _ = places()
    for name in "abc":
        assert made.full() is None
        made.add(Idle(name), "somebody")
        made.release(name)
    assert (len(made), len(made.ending)) == (0, 3)
    assert made.full() == "3 sessions are still ending"
    made.remove("b")
    assert made.full() is None
    assert [session.id for session in made.ending] == ["a", "c"]


def test_as_many_may_be_ending_as_may_be_served() -> None:
    made, _ = places(*"abcde", max_sessions=5)
    for name in "abcd":
        made.release(name)
    assert made.full() is None
    made.release("e")
    assert made.full() == "5 sessions are still ending"


def test_only_the_connection_that_opened_a_session_speaks_for_it() -> None:
    made, sessions = places("a", "b")
    found = made.find("a", "of a")
    assert found is not None and found.session is sessions[0]
    assert made.find("a", "of b") is None
    assert made.find("c", "of a") is None
    made.release("a")
    assert made.find("a", "of a") is None


def test_a_place_is_released_once() -> None:
    made, _ = places("a")
    assert made.release("a") is not None
    assert made.release("a") is None
    assert [session.id for session in made.ending] == ["a"]


def test_nobody_makes_room_while_a_place_is_free() -> None:
    made, (idle,) = places("a")
    idle.now = Usage(at=100.0, idle_s=100.0)
    assert made.wasteful() is None


def test_the_one_that_does_nothing_makes_room() -> None:
    made, (busy, idle) = places("busy", "idle")
    busy.now = Usage(at=30.0, sent_bytes=1 << 30)
    idle.now = Usage(at=30.0, idle_s=30.0)
    found = made.wasteful()
    assert found is not None
    assert found[0].session is idle
    assert found[1] == "asked for nothing during 30 of 30 s while others waited"


def test_each_judgement_looks_at_what_was_done_since_the_last() -> None:
    made, (one, other) = places("a", "b")
    one.now = other.now = Usage(at=30.0, sent_bytes=1 << 30)
    assert made.wasteful() is None
    one.now = other.now = Usage(at=59.0, sent_bytes=1 << 30, idle_s=29.0)
    assert made.wasteful() is None  # Not a whole period since the last.
    one.now = Usage(at=60.0, sent_bytes=1 << 30, idle_s=30.0)
    found = made.wasteful()
    assert found is not None and found[0].session is one
