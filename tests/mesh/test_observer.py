"""Observers: among many contacts that do not answer, and with news about a dead member."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from tests.fastest import HANG_S
from tests.meshes import OWN_MESH

from netmesh import (
    Generation,
    MemberId,
    MeshSettings,
    NoMeshError,
    Observer,
    RemoteProtocolError,
    SettingsError,
    Status,
    forget,
    generate_key,
    observe,
)
from netmesh.core.claims import Claim
from netmesh.core.messages import Busy, Message, Observe, State
from netmesh.core.records import Advert, new_generation
from netmesh.core.wire import Codec
from netmesh.observer import ASK_AT_ONCE

from .support import MemberProcess, until


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[MemberProcess]]:
    settings: dict[str, object] = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(tmp_path / "d"),
        "MESH_KEY": KEY,
        "MESH_ADVERTISE": "127.0.0.1",
    }
    spawned = [MemberProcess(settings, log=tmp_path / "log") for _ in range(4)]
    yield spawned
    for member in spawned:
        member.end()


KEY = generate_key()


def of(member: MemberProcess, key: str = KEY) -> MeshSettings:
    return MeshSettings(name=OWN_MESH, seeds=(member.id,), key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("silent", [False, True])
def test_a_member_behind_many_contacts_that_do_not_answer_is_found(
    members: list[MemberProcess], *, silent: bool
) -> None:
    """Refused at once, or accepted by somebody who says nothing."""
    with ExitStack() as stack:
        places = []
        for _ in range(2 * ASK_AT_ONCE):
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            places.append(f"127.0.0.1:{taken.getsockname()[1]}")
            if not silent:
                taken.close()
        seeds = (*places, members[0].id)
        settings = MeshSettings(name=OWN_MESH, seeds=seeds, key=KEY)  # type: ignore[arg-type]
        seen = observe(settings, 20.0, seeds_only=True)
    assert members[0].id in {member.id for member in seen}


def test_a_member_that_is_silent_at_first_is_asked_again(members: list[MemberProcess]) -> None:
    until(lambda: list(members[0].statuses().values()).count("ALIVE") == 4, 30)
    os.kill(members[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(NoMeshError):
            observe(of(members[0]), 1.5, seeds_only=True)
    finally:
        os.kill(members[0].pid, signal.SIGCONT)
    assert len(observe(of(members[0]), 10.0, seeds_only=True)) == 4


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_operator_removes_a_dead_member_and_nobody_else(members: list[MemberProcess]) -> None:
    until(lambda: list(members[0].statuses().values()).count("ALIVE") == 4, 30)
    seed, gone = of(members[0]), MemberId(members[3].id)
    assert forget(seed, gone, 10.0, seeds_only=True) is Status.ALIVE
    members[3].kill()
    until(lambda: members[0].statuses()[gone] == "DEAD", 20)
    with pytest.raises(NoMeshError):
        forget(of(members[0], generate_key()), gone, 1.0, seeds_only=True)
    assert members[0].statuses()[gone] == "DEAD"
    assert forget(seed, gone, 10.0, seeds_only=True) is Status.LEFT
    until(lambda: all(one.statuses()[gone] == "LEFT" for one in members[:3]), 20)
    assert forget(seed, MemberId("127.0.0.1:9"), 10.0, seeds_only=True) is None


def test_only_addresses_can_be_forgotten() -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        forget(MeshSettings(), MemberId("node-7"), 0.1)


class PlayedMembers:
    """Members of one mesh, each at a port of its own, that answer observers as they are told to."""

    def __init__(self, count: int) -> None:
        self.asked: Counter[MemberId] = Counter()
        self.silent: set[MemberId] = set()
        self.busy: set[MemberId] = set()
        self.advert = Advert(b'{"n":1}')
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._routers: dict[zmq.Socket[bytes], MemberId] = {}
        for _ in range(count):
            router = self._context.socket(zmq.ROUTER)
            router.setsockopt(zmq.LINGER, 0)
            router.bind("tcp://127.0.0.1:*")
            endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
            self._routers[router] = MemberId(endpoint.removeprefix("tcp://"))
        self.ids = tuple(sorted(self._routers.values()))
        self._generation = new_generation(time.time_ns() // 1_000_000, 7)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def settings(self, *seeds: MemberId) -> MeshSettings:
        return MeshSettings(name=OWN_MESH, seeds=seeds)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        for router in self._routers:
            router.close()
        self._context.term()

    def _run(self) -> None:
        poller, codec = zmq.Poller(), Codec(OWN_MESH)
        for router in self._routers:
            poller.register(router, zmq.POLLIN)
        while not self._end.is_set():
            for router, _ in poller.poll(20):
                assert isinstance(router, zmq.Socket)
                connection, *frames = router.recv_multipart()
                try:
                    asked = codec.decode(frames)
                except RemoteProtocolError:
                    continue
                me = self._routers[router]
                if isinstance(asked, Observe) and me not in self.silent:
                    self.asked[me] += 1
                    router.send_multipart([connection, *codec.encode(self._answer(me))])

    def _answer(self, me: MemberId) -> Message:
        if me in self.busy:
            return Busy(me, self._generation, 0, 60_000, ())
        claims = tuple(
            Claim(one, Generation(self._generation), 0, Status.ALIVE, 1, self.advert)
            for one in self.ids
        )
        return State(me, self._generation, 0, 0, len(claims), claims, None)


@pytest.fixture
def played() -> Iterator[PlayedMembers]:
    played = PlayedMembers(3)
    yield played
    played.close()


def test_each_look_costs_the_contact_one_answer_and_nobody_else_any(
    played: PlayedMembers,
) -> None:
    first = played.ids[0]
    with Observer(played.settings(first), seeds_only=True) as observer:
        looks = [observer.look(HANG_S) for _ in range(20)]
    assert all([member.id for member in look] == list(played.ids) for look in looks)
    # A question is said again after half a second, which a busy machine may take to answer.
    assert 20 <= played.asked[first] < 25 and len(played.asked) == 1
    # An advert that did not change is read once.
    assert len({id(member.advert) for look in looks for member in look}) == 1


@pytest.mark.parametrize("how", ["silent", "busy"])
def test_a_contact_that_does_not_answer_is_replaced_by_one_it_named(
    played: PlayedMembers, how: str
) -> None:
    first = played.ids[0]
    with Observer(played.settings(first)) as observer:
        observer.look(HANG_S)
        assert set(played.asked) == {first}
        getattr(played, how).add(first)
        assert len(observer.look(HANG_S)) == 3
        for _ in range(10):
            observer.look(HANG_S)
        # All that are known were asked once, and from then on only the one that answered first.
        once, ten = sorted(played.asked[one] for one in played.ids[1:])
        assert once <= 1 and ten >= 11


def test_a_seed_stays_the_only_one_that_is_asked(played: PlayedMembers) -> None:
    first = played.ids[0]
    with Observer(played.settings(first), seeds_only=True) as observer:
        observer.look(HANG_S)
        played.silent.add(first)
        for _ in range(2):
            with pytest.raises(NoMeshError, match=first):
                observer.look(1.5)
        assert set(played.asked) == {first}
        played.silent.clear()
        played.advert = Advert(b'{"n":2}')
        assert {member.advert["n"] for member in observer.look(HANG_S)} == {2}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_observer_outlives_the_members_it_asked(members: list[MemberProcess]) -> None:
    until(lambda: list(members[0].statuses().values()).count("ALIVE") == 4, 30)
    with Observer(of(members[0])) as observer:
        assert len(observer.look(HANG_S)) == 4
        members[0].kill()
        seen = {member.id: member.status for member in observer.look(HANG_S)}
        assert set(seen) == {member.id for member in members}
