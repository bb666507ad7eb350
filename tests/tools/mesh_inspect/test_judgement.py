"""What `doctor` makes of facts, among them those of hosts that a test cannot have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh_inspect.collect import host
from mesh_inspect.doctor import (
    addresses,
    clock,
    directory,
    limits,
    meetings,
    ports,
    seeds,
    transfer,
    versions,
)
from mesh_inspect.doctor.addresses import AddressFacts
from mesh_inspect.doctor.directory import DirectoryFacts
from mesh_inspect.doctor.faults import Area, Check
from mesh_inspect.doctor.ports import PortFacts
from mesh_inspect.doctor.seeds import SeedFacts
from mesh_inspect.doctor.transfer import Trialled
from mesh_inspect.doctor.versions import RunBy
from netloader.replica.trial import TrialEnd
from netmesh import Encounter, Meeting, MemberId, MeshSettings, SeedFound, Status, generate_key

HERE = "10.0.0.1:17946"
THERE = "10.0.0.2:17946"


def met(where: str, meeting: Meeting = Meeting.MEMBER, **known: object) -> Encounter:
    member = MemberId(where) if meeting is Meeting.MEMBER else None
    return replace(Encounter(where, meeting, member=member), **known)  # type: ignore[arg-type]


def words(check: Check) -> list[str]:
    return [f"{one.area}: {one.subject}: {one.what}" for one in check.findings]


def test_every_end_of_a_meeting_has_its_advice() -> None:
    assert set(meetings.TELLING) == set(Meeting) - {Meeting.MEMBER, Meeting.UNASKED}
    for meeting in meetings.TELLING:
        fault = meetings.finding(met(HERE, meeting, detail="so it says"))
        assert fault.subject == HERE and "(so it says)" in fault.what and fault.remedy


def test_one_member_behind_a_seed_is_enough_and_the_most_telling_answer_is_told() -> None:
    seed = SeedFound("seed node0", (HERE, THERE))
    good = {HERE: met(HERE, Meeting.REFUSED), THERE: met(THERE)}
    assert seeds.judge(SeedFacts([seed], good)).findings == ()
    bad = {HERE: met(HERE, Meeting.REFUSED), THERE: met(THERE, Meeting.OTHER_KEY)}
    (only,) = words(seeds.judge(SeedFacts([seed], bad)))
    assert only.startswith(f"key: seed node0: {THERE}")
    unasked = {where: met(where, Meeting.UNASKED) for where in (HERE, THERE)}
    (only,) = words(seeds.judge(SeedFacts([seed], unasked)))
    assert "no time" in only
    assert not seeds.judge(SeedFacts([], {})).looked


def test_a_member_beside_a_wrong_port_is_named() -> None:
    seed = SeedFound("seed 10.0.0.1:5", ("10.0.0.1:5",))
    facts = SeedFacts([seed], {"10.0.0.1:5": met("10.0.0.1:5", Meeting.REFUSED)})
    (fault,) = seeds.judge(replace(facts, instead={"10.0.0.1:5": HERE})).findings
    assert fault.remedy == f"use {HERE}: a member of this mesh listens there"


def test_the_odd_clock_is_told_from_mine() -> None:
    def at(*ahead_s: float | None) -> list[Encounter]:
        return [met(f"10.0.0.{n}:1", ahead_s=one) for n, one in enumerate(ahead_s)]

    assert words(clock.judge(at(0.2, -9.0, None))) == []
    (only,) = words(clock.judge(at(0.1, 3600.0, -0.3)))
    assert only == "clock: 10.0.0.1:1: its clock is 3600 s ahead of this one"
    (only,) = words(clock.judge(at(-3600.2, -3599.8, -3600.0)))
    assert only == "clock: this host: this clock is 3600 s ahead of those of the members"
    (only,) = words(clock.judge(at(-3600.0)))
    assert "10.0.0.0:1: its clock is 3600 s behind" in only
    assert not clock.judge(at(None)).looked
    slow = [met(HERE, ahead_s=30.0, unsure_s=25.0)]
    assert words(clock.judge(slow)) == [], "the answer took too long to say so"


def address_facts(**changes: object) -> AddressFacts:
    facts = AddressFacts("10.0.0.9", "", [met(HERE)], {HERE: ["10.0.0.1:31000"]})
    return replace(facts, **changes)  # type: ignore[arg-type]


def test_loopback_is_an_address_only_on_one_host() -> None:
    assert words(addresses.judge(address_facts())) == []
    here = "127.0.0.1:17946"
    alone = address_facts(
        would_advertise="127.0.0.1", met=[met(here)], endpoints={here: ["127.0.0.1:31000"]}
    )
    assert words(addresses.judge(alone)) == []
    (only,) = words(addresses.judge(address_facts(would_advertise="127.0.0.1")))
    assert "a worker here would advertise 127.0.0.1" in only
    (only,) = words(addresses.judge(address_facts(met=[met(HERE, member=MemberId(here))])))
    assert only == f"address: {HERE}: it advertises {here}, which leads nowhere from another host"
    (only,) = words(addresses.judge(address_facts(endpoints={HERE: ["127.0.0.1:31000"]})))
    assert "its listener is at 127.0.0.1:31000" in only


def test_an_address_behind_nat_is_told_only_if_it_leads_nowhere() -> None:
    inside = MemberId("192.168.0.7:17946")
    through = met(HERE, member=inside)
    assert words(addresses.judge(address_facts(met=[through, met(str(inside))]))) == []
    unmet = met(str(inside), Meeting.UNREACHABLE)
    (only,) = words(addresses.judge(address_facts(met=[through, unmet])))
    assert f"advertises {inside}, where it is not reached" in only


def test_a_worker_that_would_advertise_loopback_although_its_seed_is_remote() -> None:
    """The address is chosen as a worker would choose it; nothing is sent."""
    settings = MeshSettings.model_validate({"key": generate_key(), "advertise": "127.0.0.1"})
    facts = host.own_address(settings, ["10.0.0.1:17946"], [], {})
    (only,) = words(addresses.judge(facts))
    assert only.startswith("address: this host: MESH_ADVERTISE='127.0.0.1'")
    assert "only this host can reach it" in only
    assert words(addresses.judge(host.own_address(settings, ["127.0.0.1:1"], [], {}))) == []


def test_only_members_that_the_mesh_holds_for_alive_are_missed() -> None:
    facts = PortFacts(
        [met(HERE), met(THERE, Meeting.UNREACHABLE)],
        {HERE: Status.ALIVE, THERE: Status.STALLED},
        {"10.0.0.1:31000": "", "10.0.0.2:31000": "cannot connect: timed out"},
        2,
    )
    (listener,) = words(ports.judge(facts))
    assert listener == "ports: 10.0.0.2:31000: its control port: cannot connect: timed out"
    alive = replace(facts, statuses={HERE: Status.ALIVE, THERE: Status.ALIVE}, listeners={})
    (filtered,) = ports.judge(alive).findings
    assert filtered.subject == THERE and "open this TCP port" in filtered.remedy
    assert "1 of 2 members reached" in ports.judge(alive).summary


@pytest.mark.parametrize(("hard", "faults"), [(-1, 0), (65_536, 0), (768, 0), (767, 1)])
def test_a_worker_needs_some_descriptors(hard: int, faults: int) -> None:
    assert len(limits.judge(hard, 768).findings) == faults


def test_versions_count_within_a_model() -> None:
    running = [
        RunBy("a", "0.1.0", [("llama", "0.32.0")], 2),
        RunBy("b", "0.1.0", [("llama", "0.32.0"), ("qwen", "0.30.0")], 2),
        RunBy("c", "", [("mixtral", "")]),
    ]
    assert words(versions.judge(running, "0.1.0", (1, 2))) == []
    (only,) = words(versions.judge([*running, RunBy("d", "", [("qwen", "0.31.0")])], "", (1, 2)))
    assert only.startswith("versions: qwen: its workers run vLLM 0.30.0 (1, such as b), 0.31.0")
    (only,) = words(versions.judge([*running, RunBy("d", "0.2.0", [])], "", (1, 2)))
    assert "netloader-mesh 0.1.0 (2, such as a), 0.2.0 (1, such as d)" in only


def test_a_directory_that_cannot_be_used_and_an_entry_that_does_not_answer() -> None:
    facts = DirectoryFacts("/d", [], "default", {}, False, "it is somebody else's")
    (only,) = directory.judge(facts).findings
    assert (only.area, only.subject, only.what) == (Area.DIRECTORY, "/d", "it is somebody else's")
    assert directory.judge(replace(facts, problem="")).findings == ()


def test_a_busy_member_is_no_fault_and_each_other_end_has_its_remedy() -> None:
    def judged(*ends: TrialEnd) -> Check:
        return transfer.judge([Trialled(f"m{n}", one.name, one) for n, one in enumerate(ends)])

    assert judged(TrialEnd.WORKS).findings == ()
    assert judged(TrialEnd.BUSY).findings == () and not judged(TrialEnd.BUSY).looked
    for end in set(TrialEnd) - {TrialEnd.WORKS, TrialEnd.BUSY}:
        (fault,) = judged(end, TrialEnd.WORKS).findings
        assert (fault.subject, fault.area) == ("m0", Area.TRANSFER) and fault.remedy
    assert transfer.judge([], "nobody is ready").summary == "nobody is ready"
