from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tests.loader.discovery.test_selection import ME, member
from tests.loader.support import identity

from netloader.config import Config
from netloader.worker.accusations import Accusations
from netloader.worker.membership import Membership
from netloader.worker.peers import Peers
from netloader.worker.position import Position
from netmesh import Generation, Member, Status


class Everybody(Membership):
    """A mesh whose members a test names."""

    def __init__(self, *members: Member) -> None:
        super().__init__(
            Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1"}, {}), Position()
        )
        self.present: tuple[Member, ...] = members

    @property
    def absent(self) -> str:
        return ""

    def members(self) -> tuple[Member, ...]:
        return self.present

    def wait_joined(self, timeout_s: float) -> bool:
        return True


class Counted(dict[str, object]):
    """An advert that counts how often it is read."""

    def __init__(self, values: Iterable[tuple[str, object]]) -> None:
        super().__init__(values)
        self.reads = 0

    def get(self, key: str, default: object = None) -> object:
        self.reads += 1
        return super().get(key, default)


def counted(one: Member) -> tuple[Member, Counted]:
    advert = Counted(one.advert.items())
    return replace(one, advert=advert), advert  # type: ignore[arg-type]


def peers(everybody: Everybody, own: str | None = None, **extra: object) -> Peers:
    config = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", **extra}, {})
    accusations = Accusations(lambda role, accused: None)
    return Peers(config, Position(), everybody, accusations, lambda role: own)


def test_an_advert_is_read_once_however_often_a_pull_asks() -> None:
    source, advert = counted(member())
    found = peers(Everybody(ME, source))
    for _ in range(3):
        assert len(found.find(identity(), ("gloo",))) == 1
    assert advert.reads == 1


def test_a_new_version_and_a_new_process_are_read_anew() -> None:
    everybody = Everybody(ME)
    found = peers(everybody)
    for changes in ({}, {"version": 1}, {"generation": Generation(12)}):
        source, advert = counted(replace(member(), **changes))  # type: ignore[arg-type]
        everybody.present = (ME, source)
        found.find(identity(), ("gloo",))
        found.find(identity(), ("gloo",))
        assert advert.reads == 1


def test_a_member_that_is_gone_is_forgotten() -> None:
    source, advert = counted(member())
    everybody = Everybody(ME, source)
    found = peers(everybody)
    found.find(identity(), ("gloo",))
    everybody.present = (ME,)
    assert found.find(identity(), ("gloo",)) == ()
    everybody.present = (ME, source)
    assert len(found.find(identity(), ("gloo",))) == 1
    assert advert.reads == 2


def test_one_list_for_all_hosts_names_this_worker_as_well() -> None:
    listed = [{"device_id": 0, "sources": ["127.0.0.1:2000", "127.0.0.1:2001"]}]
    found = peers(Everybody(), own="127.0.0.1:2000", SOURCE=listed)
    assert [one.endpoint for one in found.find(identity(), ("gloo",))] == ["127.0.0.1:2001"]


def test_static_sources_come_before_those_of_the_mesh() -> None:
    listed = [{"device_id": 0, "sources": ["127.0.0.1:2000"]}]
    found, skipped = peers(Everybody(ME, member()), SOURCE=listed).candidates(identity(), ("gloo",))
    assert [one.found_by for one in found] == ["SOURCE", "mesh"]
    assert skipped == []


def test_what_this_worker_and_the_dead_hold_is_not_offered() -> None:
    everybody = Everybody(
        member("10.0.0.1:1", me=True),
        member("10.0.0.2:1", status=Status.DEAD),
        member("10.0.0.3:1", state="loading"),
        member("10.0.0.4:1"),
    )
    found = peers(everybody)
    (offer,) = found.offers(identity())
    assert offer.startswith("10.0.0.4:1 has toy")
    assert len(found.alike(identity())) == 1
