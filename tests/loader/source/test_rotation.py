"""Cluster keys are replaced while sources serve and replicas pull: nothing fails, nobody waits."""

from __future__ import annotations

import itertools
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.loader.support import (
    MEMORY,
    SMALL_WINDOW,
    Caller,
    StreamEnded,
    Stuck,
    TamperedBackend,
    calling,
    candidate,
    descriptors,
    ended_by,
    equal,
    hello,
    keys,
    offer_of,
    pull_from,
    pull_into,
    serving,
    threads,
    toy_weights,
    until,
)

from netloader.config import Config
from netloader.errors import NetloaderError
from netloader.protocol import messages
from netloader.replica.outcome import Lost
from netloader.replica.pull import Pull
from netloader.source.listener import Listener
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.transport import join
from netloader.worker.position import Position
from netloader.worker.process import Worker
from netmesh import SocketSecurity, generate_key

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
STEPS = (keys(OLD), keys(OLD, NEW), keys(NEW, OLD), keys(NEW))
WEIGHTS = toy_weights(1, rows=10)


def can_pull(source: Source, security: SocketSecurity) -> bool:
    replica = toy_weights(rows=10)
    try:
        pull_from(pull_into(replica, security=security), candidate(source))
    except StreamEnded as error:
        assert "did not accept this worker's cluster key" in str(error)
        return False
    return equal(replica, WEIGHTS)


class Followed(Listener):
    """Says which keys it has taken into use, and cut the connections of."""

    def __init__(self, security: SocketSecurity) -> None:
        self.in_use = self.settled = security
        super().__init__("127.0.0.1", None, security, 3.0)

    def rekey(self, security: SocketSecurity) -> None:
        super().rekey(security)
        self.in_use = security

    def keep(self, callers: Collection[object]) -> None:
        super().keep(callers)  # type: ignore[arg-type]
        self.settled = self.in_use


@dataclass
class Keyed:
    """A source, and the listener that it owns."""

    source: Source
    listener: Followed

    def rekey(self, *steps: SocketSecurity) -> None:
        """Change keys step by step, and wait until the source's thread has done the last."""
        for security in steps:
            self.source.rekey(security)
        until(lambda: self.listener.settled == steps[-1])


@contextmanager
def keyed(security: SocketSecurity, offer: Offer | None = None) -> Iterator[Keyed]:
    listener = Followed(security)
    with serving(offer or offer_of(WEIGHTS), listener=listener) as source:
        yield Keyed(source, listener)


@pytest.mark.parametrize(
    ("at", "replica_at"),
    [(at, other) for at in range(4) for other in range(4) if abs(at - other) <= 1],
)
def test_source_and_replica_may_be_a_step_apart(at: int, replica_at: int) -> None:
    with keyed(STEPS[0]) as one:
        one.rekey(*STEPS[: at + 1])
        assert can_pull(one.source, STEPS[replica_at])


def test_a_key_lets_in_no_more_once_it_is_removed_and_not_before_it_is_added() -> None:
    with keyed(STEPS[0]) as one:
        assert not can_pull(one.source, STEPS[3])
        one.rekey(*STEPS[1:])
        assert not can_pull(one.source, STEPS[0])


def refusal_of(caller: Caller) -> messages.Refuse:
    answer = caller.ask(hello(WEIGHTS, generation=1))
    assert isinstance(answer, messages.Refuse), answer
    return answer


@contextmanager
def pulling_half_way(security: SocketSecurity) -> Iterator[tuple[Keyed, list[object]]]:
    """A pull that goes on at the end of the block, and its result."""
    stuck = Stuck(after=2)
    results: list[object] = []
    weights, replica = toy_weights(1), toy_weights()

    def pull(source: Source) -> None:
        try:
            pull_from(pull_into(replica, security=security), candidate(source))
            results.append(equal(replica, weights))
        except NetloaderError as error:
            results.append(error)

    assert len(weights.manifest.chunks()) > SMALL_WINDOW + 2  # There is more to ask for.
    offer = offer_of(weights, backend=TamperedBackend(stuck))
    with keyed(security, offer) as one:
        thread = threading.Thread(target=pull, args=[one.source])
        thread.start()
        assert stuck.reached.wait(HANG_S)
        yield one, results
        stuck.release.set()
        thread.join(HANG_S)
        assert not thread.is_alive()
        until(lambda: one.source.sessions == 0)


def test_a_session_under_way_survives_every_step() -> None:
    with pulling_half_way(STEPS[0]) as (one, results):
        one.rekey(*STEPS[1:])
        assert one.source.sessions == 1
    assert results == [True]


def test_new_sessions_are_opened_while_earlier_ones_keep_the_earlier_socket() -> None:
    with pulling_half_way(STEPS[0]) as (one, results):
        one.rekey(*STEPS[1:])
        one.source.serve(offer_of(WEIGHTS))
        for security in STEPS[2:] * 5:
            assert can_pull(one.source, security)
    assert results == [True]


def test_a_removed_key_opens_nothing_over_a_connection_it_opened_before() -> None:
    with (
        pulling_half_way(STEPS[1]) as (one, _),  # Keeps the earlier ROUTER open.
        calling(one.source, STEPS[0]) as thief,
    ):
        assert isinstance(thief.ask(hello(WEIGHTS, generation=1)), messages.Refuse)
        one.rekey(STEPS[3])
        refused = thief.ask(hello(WEIGHTS))
        assert isinstance(refused, messages.Refuse)
        assert refused.code == "keys"


def test_a_removed_key_keeps_its_connection_for_a_session_and_not_for_its_thread() -> None:
    stuck = Stuck()
    offer = offer_of(WEIGHTS, backend=TamperedBackend(stuck))
    with serving(offer, security=STEPS[1]) as source, calling(source, STEPS[0]) as leaver:
        accept = leaver.accepted(WEIGHTS)
        group = join(accept.host, accept.port, accept.secret, MEMORY, 5)
        leaver.send(messages.Want(session=accept.session, chunks=(0,)))
        assert stuck.reached.wait(HANG_S)
        source.rekey(STEPS[3])
        until(lambda: refusal_of(leaver).code == "keys")
        leaver.send(messages.Done(session=accept.session))
        until(lambda: source.sessions == 0)
        leaver.send(hello(WEIGHTS))
        assert leaver.hears_nothing(0.3)
        stuck.release.set()
        group.abort()


def test_a_removed_key_has_its_idle_connections_cut() -> None:
    with (
        keyed(STEPS[1]) as one,
        calling(one.source, STEPS[0]) as thief,
    ):
        assert isinstance(thief.ask(hello(WEIGHTS, generation=1)), messages.Refuse)
        one.rekey(STEPS[3])
        thief.send(hello(WEIGHTS))
        assert thief.hears_nothing(0.3)


def test_a_key_that_is_only_added_cuts_nobody() -> None:
    with (
        keyed(STEPS[0]) as one,
        calling(one.source, STEPS[0]) as caller,
    ):
        caller.ask(hello(WEIGHTS, generation=1))
        one.rekey(STEPS[1])
        caller.accepted(WEIGHTS)


def test_the_port_refuses_no_connection_while_keys_change() -> None:
    refused: list[OSError] = []
    stop = threading.Event()
    with keyed(STEPS[1]) as one:

        def knock() -> None:
            while not stop.is_set():
                try:
                    socket.create_connection(("127.0.0.1", one.source.port), 10).close()
                except OSError as error:
                    refused.append(error)

        thread = threading.Thread(target=knock)
        thread.start()
        for _ in range(20):
            one.rekey(STEPS[2])
            one.rekey(STEPS[1])
        stop.set()
        thread.join()
    assert refused == []


def fewest(count: Callable[[], int]) -> int:
    """The lowest of some counts within half a second: what lingers is gone in one of them."""
    deadline = time.monotonic() + 0.5
    lowest = count()
    while time.monotonic() < deadline:
        lowest = min(lowest, count())
        time.sleep(0.02)
    return lowest


def test_forty_changes_leave_no_threads_and_no_descriptors() -> None:
    """Counted once the last ROUTER's linger is over: sooner there may be one more."""
    with keyed(STEPS[1]) as one:
        for _ in range(2):
            one.rekey(STEPS[2])
            one.rekey(STEPS[1])
        steady = fewest(descriptors), fewest(threads)
        for _ in range(20):
            one.rekey(STEPS[2])
            one.rekey(STEPS[1])
        until(lambda: descriptors() <= steady[0] and threads() <= steady[1])


def test_a_change_that_fails_costs_nothing_and_is_tried_again() -> None:
    failed, again = threading.Event(), threading.Event()

    class WithoutDescriptors(Followed):
        def rekey(self, security: SocketSecurity) -> None:
            if not again.is_set():
                failed.set()
                raise OSError(24, "Too many open files")
            super().rekey(security)

    listener = WithoutDescriptors(STEPS[0])
    with serving(offer_of(WEIGHTS), listener=listener, rekey_pause_s=0.01) as source:
        source.rekey(STEPS[3])
        assert failed.wait(HANG_S)
        assert can_pull(source, STEPS[0])
        again.set()
        until(lambda: listener.in_use == STEPS[3])
        assert can_pull(source, STEPS[3])


def test_a_source_without_a_key_is_not_given_one() -> None:
    with serving(offer_of(WEIGHTS)) as source:
        source.rekey(STEPS[0])
        replica = toy_weights(rows=10)
        pull_from(pull_into(replica), candidate(source))
        assert equal(replica, WEIGHTS)


def test_pull_asks_for_the_keys_again_with_each_source() -> None:
    now = [STEPS[0]]
    replica = toy_weights(rows=10)
    pull = pull_into(replica, security=lambda: now[0])
    with (
        serving(offer_of(WEIGHTS), security=STEPS[3]) as first,
        serving(offer_of(WEIGHTS), security=STEPS[3]) as second,
    ):
        with ended_by(Lost, match="cluster key"):
            pull_from(pull, candidate(first))
        now[0] = STEPS[2]
        pull_from(pull, candidate(second))
    assert equal(replica, WEIGHTS)


class KeyedHost:
    """A worker with a key file of its own."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        self.write(text)
        config = Config.load(
            {"MESH": False, "MESH_KEY_FILE": str(file), "MESH_ADVERTISE": "127.0.0.1"}, {}
        )
        mesh = config.mesh_settings.model_copy(update={"read_key_again_s": 0.02})
        self.worker = Worker(config.model_copy(update={"mesh_settings": mesh}), Position())

    def write(self, text: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)

    def pull(self, source: Source) -> Pull:
        pull = pull_into(toy_weights(rows=10), security=lambda: self.worker.sources.security)
        pull_from(pull, candidate(source, None))
        return pull


def test_rotation_of_running_sources_and_replicas_fails_no_pull(tmp_path: Path) -> None:
    old, new = generate_key(), generate_key()
    hosts = [KeyedHost(tmp_path / f"{number}.key", old) for number in range(4)]
    sources = [host.worker.sources.listen("target") for host in hosts[:2]]
    served = [source for source in sources if source is not None]
    assert len(served) == 2
    for source in served:
        source.serve(offer_of(WEIGHTS))
    stop = threading.Event()
    problems: list[BaseException] = []
    pulls: list[Pull] = []

    def keep_pulling(host: KeyedHost) -> None:
        for source in itertools.cycle(served):
            if stop.is_set():
                return
            try:
                pulls.append(host.pull(source))
            except Exception as error:  # noqa: BLE001
                problems.append(error)

    replicas = [threading.Thread(target=keep_pulling, args=[host]) for host in hosts[2:]]
    for thread in replicas:
        thread.start()
    pace = random.Random(1)
    for text in (f"{old}\n{new}", f"{new}\n{old}", new):
        for host in pace.sample(hosts, len(hosts)):
            host.write(text)
            # Hosts are a pull apart, or none.
            further = len(pulls) + pace.randrange(2)
            until(lambda count=further: len(pulls) >= count or problems)  # type: ignore[misc]
        until(lambda: len({host.worker.sources.security for host in hosts}) == 1)
        enough = len(pulls) + 7
        until(lambda count=enough: len(pulls) >= count or problems)  # type: ignore[misc]
    stop.set()
    for thread in replicas:
        thread.join()
    for host in hosts:
        host.worker.close()
    assert problems == []
    assert len(pulls) > 20
    assert all(pull.complete for pull in pulls)
    assert {host.worker.sources.security for host in hosts} == {hosts[0].worker.sources.security}
    assert len(hosts[0].worker.sources.security.rings) == 1


def test_a_source_made_while_keys_change_gets_the_new_ones(tmp_path: Path) -> None:
    old, new = generate_key(), generate_key()
    host = KeyedHost(tmp_path / "a.key", old)
    first = host.worker.sources.security
    try:
        host.write(new)
        until(lambda: host.worker.sources.security != first)
        source = host.worker.sources.listen("target")
        assert source is not None
        source.serve(offer_of(WEIGHTS))
        assert host.pull(source).complete
    finally:
        host.worker.close()
