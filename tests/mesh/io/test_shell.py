import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from tests.fastest import HANG_S, at_most

from netmesh.core.effects import Departed, Dial, Effect, Log, Reply, Send, Watch
from netmesh.core.events import (
    Contacts,
    Dialled,
    DialOutcome,
    Event,
    Leave,
    LinkLost,
    Publish,
    Received,
    Tick,
)
from netmesh.core.member import Member
from netmesh.core.messages import NOBODY, Message, Observe
from netmesh.core.records import Generation, MemberId
from netmesh.core.wire import PROTOCOL_VERSION
from netmesh.errors import BindError, RemoteProtocolError
from netmesh.io.links import harden
from netmesh.io.security import SocketSecurity
from netmesh.io.shell import ERROR_PAUSE_S, Shell

from ..support import until

LOG = logging.getLogger("netmesh.test")
PLAIN = SocketSecurity((), "")


class FakeWire:
    """Two frames: b"M" and the cursor of an Observe; everything else is malformed."""

    def encode(self, message: Message) -> tuple[bytes, bytes]:
        assert isinstance(message, Observe)
        return b"M", b"%d" % message.cursor

    def decode(self, frames: Sequence[bytes]) -> Message:
        if len(frames) != 2 or frames[0] != b"M":
            raise RemoteProtocolError("not ours")
        return message(int(frames[1]))

    def newest(self, frames: Sequence[bytes]) -> int:
        return PROTOCOL_VERSION


def message(number: int) -> Observe:
    return Observe(NOBODY, Generation(0), number)


class FakeCore:
    """Notes events; answers each with what the test scripted for its type."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.script: dict[type, Callable[[Event], list[Effect]]] = {}
        self.revision = 0
        self.dead: set[MemberId] = set()
        self.joined = False
        self.tick_at = float("inf")
        self.threads: set[int] = set()

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        if isinstance(event, Tick) and type(event) not in self.script:
            self.tick_at = float("inf")
        return self.script.get(type(event), lambda _: [])(event)

    def deadline(self) -> float:
        return self.tick_at

    def members(self) -> tuple[Member, ...]:
        return ()

    def live(self, member: MemberId) -> bool:
        return member not in self.dead

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def running(
    core: FakeCore, security: SocketSecurity = PLAIN, changes: list[bool] | None = None
) -> Iterator[tuple[Shell, MemberId]]:
    shell = Shell(FakeWire(), security, LOG)
    port = shell.bind("127.0.0.1", None)
    shell.start(core, lambda _, joined: None if changes is None else changes.append(joined))
    try:
        yield shell, MemberId(f"127.0.0.1:{port}")
    finally:
        assert shell.stop(5.0)


def test_question_and_answer_between_two_shells() -> None:
    asked, answering = FakeCore(), FakeCore()
    answering.script[Received] = lambda event: [Reply(event.connection, message(2))]  # type: ignore[attr-defined]
    with running(answering) as (_, there), running(asked) as (shell, _):
        asked.script[Contacts] = lambda event: [Send(there, message(1))]
        shell.contacts((there,))
        until(lambda: asked.of(Received))
    (question,) = answering.of(Received)
    (answer,) = asked.of(Received)
    assert isinstance(question, Received) and question.message == message(1)
    assert isinstance(answer, Received) and answer.message == message(2)
    assert len(asked.threads) == 1
    assert threading.get_ident() not in asked.threads


def test_replying_on_an_own_link_is_a_counted_mistake() -> None:
    asked, answering = FakeCore(), FakeCore()
    answering.script[Received] = lambda event: [Reply(event.connection, message(2))]  # type: ignore[attr-defined]
    asked.script[Received] = answering.script[Received]
    with running(answering) as (_, there), running(asked) as (shell, _):
        asked.script[Contacts] = lambda event: [Send(there, message(1))]
        shell.contacts(())
        until(lambda: shell.counters["error.reply_on_own_link"])


def test_publish_is_coalesced_and_leave_departs() -> None:
    core = FakeCore()
    core.script[Leave] = lambda _: [Departed()]
    gate = threading.Event()

    def block(_: Event) -> list[Effect]:
        assert gate.wait(HANG_S)
        return []

    core.script[Contacts] = block
    with running(core) as (shell, _):
        shell.contacts(())
        until(lambda: core.of(Contacts))
        for number in range(100):
            shell.publish({"n": number})
        shell.leave()
        gate.set()
        assert shell.departed.wait(HANG_S)
    assert core.of(Publish) == [Publish({"n": 99})]


def test_the_core_is_ticked_when_it_asked_for_it() -> None:
    core = FakeCore()
    core.tick_at = time.monotonic() + 0.05
    due = core.tick_at
    with running(core):
        until(lambda: core.of(Tick))
        assert time.monotonic() >= due
    assert len(core.of(Tick)) == 1


def test_dials_are_answered() -> None:
    core = FakeCore()
    with running(core) as (shell, me):
        gone = MemberId("127.0.0.1:1")
        core.script[Contacts] = lambda _: [Dial(gone, 1.0), Dial(me, 1.0)]
        shell.contacts(())
        until(lambda: len(core.of(Dialled)) == 2)
    assert {(event.id, event.outcome) for event in core.of(Dialled)} == {  # type: ignore[attr-defined]
        (gone, DialOutcome.REFUSED),
        (me, DialOutcome.CONNECTED),
    }


def test_a_watched_peer_that_closes_is_lost_at_once() -> None:
    core = FakeCore()
    with running(core) as (shell, _):
        watched = FakeCore()
        with running(watched) as (_, there):
            core.script[Contacts] = lambda _: [Watch(frozenset({there})), Send(there, message(1))]
            shell.contacts(())
            until(lambda: watched.of(Received))
            assert not core.of(LinkLost)
        with at_most(5.0):  # keepalive alone would take six seconds
            until(lambda: core.of(LinkLost))
    assert core.of(LinkLost) == [LinkLost(there)]


def test_no_exception_ends_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    core = FakeCore()

    def broken(_: object) -> list[Effect]:
        raise RuntimeError("bug")

    core.script[Contacts] = broken
    core.script[Tick] = broken
    core.script[Publish] = lambda _: [Send(MemberId("127.0.0.1:1"), None), Log("info", "went on")]  # type: ignore[arg-type]
    core.tick_at = 0.0
    with caplog.at_level(logging.INFO), running(core) as (shell, _):
        shell.contacts(())
        until(lambda: shell.counters["error.core"] >= 4)
        core.script[Tick] = lambda _: []
        core.tick_at = float("inf")
        shell.publish({})
        until(lambda: "mesh: went on" in caplog.text)
        assert shell.counters["error.effect"] == 1


def test_a_timer_that_raises_does_not_spin() -> None:
    core = FakeCore()

    def broken(_: object) -> list[Effect]:
        raise RuntimeError("bug")

    core.script[Tick] = broken
    core.tick_at = 0.0
    with running(core):
        until(lambda: len(core.of(Tick)) >= 2)
        started = time.monotonic()
        before = len(core.of(Tick))
        until(lambda: len(core.of(Tick)) >= before + 5)
        later = len(core.of(Tick)) - before
        assert time.monotonic() - started >= (later - 1) * ERROR_PAUSE_S


def test_malformed_messages_are_counted_and_dropped() -> None:
    core = FakeCore()
    context = zmq.Context()
    with running(core) as (shell, me):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://{me}")
        for frames in ([b""], [b"x", b"y"], [b"M", b"1", b"2"], [b"M", b"7"]):
            dealer.send_multipart(frames)
        until(lambda: core.of(Received))
        assert shell.counters["dropped.malformed"] == 3
    assert len(core.of(Received)) == 1
    context.destroy(linger=0)


def test_an_answer_to_somebody_who_left_is_counted() -> None:
    core = FakeCore()
    context = zmq.Context()
    with running(core) as (shell, me):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(f"tcp://{me}")
        dealer.send_multipart([b"M", b"7"])
        until(lambda: core.of(Received))
        context.destroy(linger=0)
        connection = core.of(Received)[0].connection  # type: ignore[attr-defined]
        core.script[Contacts] = lambda _: [Reply(connection, message(1))]

        def gone() -> int:
            shell.contacts(())
            return shell.counters["dropped.reply_peer_gone"]

        until(gone)
        assert not shell.counters["error.effect"]


def test_snapshots_follow_the_revision() -> None:
    core = FakeCore()
    changes: list[bool] = []

    def change(_: object) -> list[Effect]:
        core.revision += 1
        core.joined = True
        return []

    core.script[Contacts] = change
    with running(core, changes=changes) as (shell, _):
        until(lambda: changes == [False])
        shell.contacts(())
        until(lambda: changes == [False, True])


def test_a_taken_port_is_an_error_only_when_it_was_asked_for() -> None:
    with running(FakeCore()) as (_, me):
        port = int(me.rpartition(":")[2])
        with pytest.raises(BindError, match=str(port)):
            Shell(FakeWire(), PLAIN, LOG).bind("127.0.0.1", port)
        other = Shell(FakeWire(), PLAIN, LOG)
        assert other.bind("127.0.0.1", None, [port]) not in (0, port)
        other.close_unstarted()


def test_closing_with_dead_peers_around_takes_no_time() -> None:
    core = FakeCore()
    targets = [MemberId(f"127.0.0.1:{port}") for port in range(1, 60)]
    targets += [MemberId(f"192.0.2.{number}:9") for number in range(1, 9)]  # lead nowhere
    core.script[Contacts] = lambda _: [
        Watch(frozenset(targets[:4])),
        *(Send(target, message(1)) for target in targets),
        *(Dial(target, 9.0) for target in targets),
    ]
    before = descriptors()
    with running(core) as (shell, _):
        shell.contacts(())
        until(lambda: shell.counters["links.opened"] >= len(targets))
    assert descriptors() <= before


def test_curve_between_shells() -> None:
    security = SocketSecurity.from_keys([bytes(range(32))], "m")
    core, server = FakeCore(), FakeCore()
    context = zmq.Context()
    with running(server, security) as (shell, there), running(core, security) as (mine, _):
        core.script[Contacts] = lambda _: [Send(there, message(1))]
        stranger = context.socket(zmq.DEALER)
        harden(stranger)
        monitor = stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        stranger.connect(f"tcp://{there}")
        stranger.send_multipart([b"M", b"666"])
        assert monitor.poll(5000)  # shown the door
        mine.contacts(())
        until(lambda: server.of(Received))
        assert [event.message for event in server.of(Received)] == [message(1)]  # type: ignore[attr-defined]
        assert shell.counters["zap.accepted"] == 1
    context.destroy(linger=0)


class FirstLacking(SocketSecurity):
    """Keys that find no descriptor left when they are first taken into use."""

    lacks = 1

    def apply_server(self, socket: zmq.Socket[bytes]) -> None:
        if FirstLacking.lacks:
            FirstLacking.lacks -= 1
            raise zmq.ZMQError(errno.EMFILE)
        super().apply_server(socket)


def test_a_change_of_keys_that_finds_no_descriptor_is_made_a_moment_later() -> None:
    old, new = (SocketSecurity.from_keys([bytes([key] * 32)], "m") for key in (1, 2))
    core, server = FakeCore(), FakeCore()
    with running(server, old) as (shell, there), running(core, new) as (mine, _):
        core.script[Contacts] = lambda _: [Send(there, message(1))]
        shell.rekey(FirstLacking(new.rings, new.domain))
        until(lambda: shell.counters["error.rekey"] == 1)

        def arrived() -> list[Event]:
            mine.contacts(())
            return server.of(Received)

        until(arrived)
    assert shell.counters["error.rekey"] == 1
