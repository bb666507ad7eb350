"""Members as their users see them, on loopback, several in one process."""

import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fastest import HANG_S, at_most, fastest_of
from tests.free_ports import free_port
from tests.meshes import OWN_MESH

from netmesh import (
    BindError,
    ClosedError,
    JsonObject,
    LocalProtocolError,
    Member,
    Mesh,
    MeshSettings,
    NoMeshError,
    Status,
    observe,
)
from netmesh.address import Address
from netmesh.bootstrap.advertise import udp_source
from netmesh.settings import well_known_ports

from .started import Start, observing, size


def other(mesh: Mesh) -> Member:
    (found,) = [member for member in mesh.members() if not member.me]
    return found


def shows(member: Mesh, status: Status) -> Callable[[tuple[Member, ...]], bool]:
    return lambda members: any(
        one.id == member.id and one.status is status and one.generation == member.generation
        for one in members
    )


def test_members_on_one_machine_find_each_other_with_nothing_set(start: Start) -> None:
    # What a user gets who sets nothing: the name that other tests leave alone.
    a, b, c = (start({"n": number}, name="default") for number in (1, 2, 3))
    for mesh in (a, b, c):
        assert mesh.wait(size(3), HANG_S)
        assert mesh.wait_joined(HANG_S)
        assert [member.advert["n"] for member in mesh.members() if member.me] == [
            {a: 1, b: 2, c: 3}[mesh]
        ]
        assert {member.id for member in mesh.members()} == {a.id, b.id, c.id}
    assert all(member.host == "127.0.0.1" for member in a.members())
    assert all(0 <= member.age_s < 60 for member in a.members())


def test_members_find_each_other_through_a_seed(start: Start, tmp_path: Path) -> None:
    a = start()
    b = start(seeds=(a.id,), directory=tmp_path / "elsewhere")
    assert a.wait(size(2), HANG_S)
    assert b.wait(size(2), HANG_S)


def test_ipv6(start: Start, tmp_path: Path) -> None:
    if udp_source(Address("::1", 9)) is None:
        pytest.skip("no IPv6 here")
    a = start(advertise="::1")
    b = start(seeds=(a.id,), directory=tmp_path / "elsewhere")
    assert a.id.startswith("[::1]:")
    for mesh in (a, b):
        assert mesh.wait(size(2), HANG_S)
        assert {member.host for member in mesh.members()} == {"::1"}


@pytest.fixture
def jobs() -> tuple[str, str]:
    """Names of two meshes with the same usual port."""
    names: dict[int, str] = {}
    for number in itertools.count():
        name = f"job-{os.getpid()}-{number}"
        first = well_known_ports(name)[0]
        if first in names:
            return names[first], name
        names[first] = name
    raise AssertionError


def test_two_meshes_on_the_same_hosts_meet_their_own(
    start: Start, tmp_path: Path, jobs: tuple[str, str]
) -> None:
    # Another directory is another host, as far as finding goes.
    first = [start(name=name, directory=tmp_path / name) for name in jobs]
    assert first[0].id != first[1].id
    for name, member in zip(jobs, first, strict=True):
        late = start(name=name, seeds=("127.0.0.1",), directory=tmp_path / "elsewhere")
        assert late.wait(size(2), 20) and member.wait(size(2), 20)


def test_two_on_a_host_that_were_given_one_port_are_members_both(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    a, b = start(port=port), start(port=port)
    assert a.id == f"127.0.0.1:{port}" != b.id
    for mesh in (a, b):
        assert mesh.wait(size(2), HANG_S)
    (said,) = [line for line in caplog.messages if "MESH_PORT" in line]
    assert f"another program listens on port {port}" in said
    assert b.id.rpartition(":")[2] in said and "Give each server of a host a MESH_PORT" in said


def test_a_port_that_is_published_has_no_other_that_stands_for_it(start: Start) -> None:
    port = free_port()
    start(port=port)
    with pytest.raises(BindError, match=str(port)):
        start(port=port, advertise=f"127.0.0.1:{port}")


def test_the_first_of_all_is_joined_when_nobody_is_there(start: Start) -> None:
    a = start()
    assert a.wait_joined(HANG_S)
    assert [member.me for member in a.members()] == [True]


def test_a_split_start_heals(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    b = start(seeds=(f"127.0.0.1:{port}",), directory=tmp_path / "b")
    assert b.wait_joined(HANG_S)
    late = start(port=port, directory=tmp_path / "a")
    assert late.wait(size(2), HANG_S)
    assert b.wait(size(2), HANG_S)


def test_adverts_change(start: Start) -> None:
    a, b = start({"state": "loading"}), start()
    assert b.wait(size(2), HANG_S)
    for number in range(5):
        a.publish({"state": "ready", "number": number})
    assert b.wait(lambda members: any(m.advert.get("number") == 4 for m in members), HANG_S)
    assert other(b).advert == {"state": "ready", "number": 4}


def test_what_was_published_cannot_be_changed_afterwards(start: Start) -> None:
    a, b = start(), start()
    advert: JsonObject = {"list": [1]}
    a.publish(advert)
    advert["list"] = [2]
    assert b.wait(lambda members: any(m.advert.get("list") == [1] for m in members), HANG_S)


def test_leaving_is_seen_at_once(start: Start) -> None:
    a = start()

    @fastest_of(5)
    def leaves() -> Mesh:
        b = start()
        assert a.wait(shows(b, Status.ALIVE), HANG_S)
        assert b.wait(shows(a, Status.ALIVE), HANG_S)
        with at_most(1.5):  # the goodbye ends it, and not the timeout
            b.leave(timeout_s=50)
        return b

    b = leaves()
    assert a.wait(shows(b, Status.LEFT), HANG_S)
    with pytest.raises(ClosedError):
        b.members()
    b.leave()
    b.close()


def test_closing_without_a_word_is_seen_as_a_crash(start: Start) -> None:
    a, b = start(), start()

    @fastest_of(5)
    def closes() -> None:
        c = start()
        for mesh in (a, b):
            assert mesh.wait(shows(c, Status.ALIVE), HANG_S)
            assert c.wait(shows(mesh, Status.ALIVE), HANG_S)
        with at_most(4.0):
            with at_most(1.0):
                c.close()
            for mesh in (a, b):
                assert mesh.wait(shows(c, Status.DEAD), HANG_S)

    closes()


def test_a_restart_on_the_same_address_is_another_process(start: Start, tmp_path: Path) -> None:
    a = start()
    first = start({"run": 1})
    assert a.wait(size(2), HANG_S)
    port = int(first.id.rpartition(":")[2])
    first.close()
    second = start({"run": 2}, port=port)
    assert a.wait(shows(second, Status.ALIVE), HANG_S)
    assert [m.advert for m in a.members() if m.id == second.id] == [{"run": 2}]
    assert second.generation > first.generation


def test_meshes_of_different_names_do_not_mix(start: Start) -> None:
    other_mesh = f"{OWN_MESH}-other"
    a, b = start(), start(name=other_mesh)
    c = start(seeds=(b.id,))
    assert a.wait(size(2), HANG_S)
    assert c.wait(size(2), HANG_S)
    assert len(b.members()) == 1


def test_wait_gives_up(start: Start) -> None:
    a = start()

    @fastest_of(5)
    def waits() -> None:
        with at_most(1.0):
            assert not a.wait(size(2), 0.05)

    waits()


def test_a_predicate_may_use_the_mesh(start: Start) -> None:
    a = start()
    assert a.wait(lambda members: bool(a.members()), HANG_S)
    with pytest.raises(ZeroDivisionError):
        a.wait(lambda members: bool(1 / 0), HANG_S)


def test_bad_adverts_are_refused(start: Start) -> None:
    a = start()
    for bad in ({"x": "y" * 9000}, {"x": object()}):
        with pytest.raises(LocalProtocolError):
            a.publish(bad)
        with pytest.raises(LocalProtocolError):
            start(bad)


def test_an_observer_sees_everybody_and_is_no_member(start: Start, tmp_path: Path) -> None:
    a, b = start({"n": 1}), start({"n": 2})
    assert a.wait(size(2), HANG_S)
    assert b.wait(size(2), HANG_S)
    for settings in (
        observing(directory=tmp_path / "netmesh"),
        observing(seeds=(b.id,), directory=tmp_path / "none"),
    ):
        seen = observe(settings, HANG_S)
        assert {member.id: member.advert["n"] for member in seen} == {a.id: 1, b.id: 2}
        assert not any(member.me for member in seen)
    assert len(a.members()) == 2


def test_an_observer_that_finds_nobody_says_where_it_looked(tmp_path: Path) -> None:
    settings = MeshSettings(seeds=("127.0.0.1:1",), directory=tmp_path / "none", name="lonely")
    with pytest.raises(NoMeshError, match=r"lonely.*127\.0\.0\.1:1"):
        observe(settings, 0.3)
    settings = observing(seeds=(f"file:{tmp_path}/none",), directory=tmp_path / "none")
    with pytest.raises(NoMeshError, match="file:"):
        observe(settings, 0.1)


def test_an_observer_can_ask_the_seeds_only(start: Start, tmp_path: Path) -> None:
    here, elsewhere = start({"n": 1}), start({"n": 2}, directory=tmp_path / "elsewhere")
    settings = observing(seeds=(elsewhere.id,), directory=tmp_path / "netmesh")
    assert [member.advert["n"] for member in observe(settings, HANG_S, seeds_only=True)] == [2]
    with pytest.raises(NoMeshError):
        observe(observing(directory=tmp_path / "netmesh"), 0.1, seeds_only=True)
    assert len(here.members()) == 1


def test_a_forked_child_cannot_use_it_and_may_start_its_own(start: Start) -> None:
    a = start()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # no assertion may raise here: pytest would run on in the child
        report = b"?"
        try:
            try:
                a.members()
                report = b"parent's mesh was usable"
            except ClosedError:
                a.leave()
                a.close()
                own = start({"child": True})
                report = b"ok" if own.wait(size(2), HANG_S) else b"never joined"
                own.leave()
        finally:
            os.write(writer, report)
            os._exit(0)
    assert a.wait(lambda members: any(m.advert.get("child") for m in members), HANG_S)
    assert os.read(reader, 99) == b"ok"
    os.waitpid(child, 0)
    assert len(a.members()) == 2  # the child that left is still shown
    os.close(reader)
    os.close(writer)


def test_counters_tell_of_traffic(start: Start) -> None:
    a, b = start(), start()
    assert a.wait(size(2), HANG_S)
    assert b.wait(size(2), HANG_S)
    assert a.counters()["received"] > 0
    assert not [name for name in a.counters() if name.startswith("error.")]
