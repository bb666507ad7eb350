"""`mesh-inspect doctor`: what keeps workers on this host and the mesh apart, and what to do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import click

from mesh_inspect.collect import host, listeners
from mesh_inspect.doctor import (
    addresses,
    clock,
    directory,
    limits,
    ports,
    seeds,
    transfer,
    versions,
)
from mesh_inspect.doctor.faults import Check
from mesh_inspect.doctor.ports import PortFacts
from mesh_inspect.doctor.seeds import SeedFacts
from mesh_inspect.doctor.versions import RunBy
from mesh_inspect.exits import DoctorExit
from mesh_inspect.looking import DEFAULT_TIMEOUT_S, DOCTOR_TIMEOUT_S, Inquiry, Means, log_to_stderr
from mesh_inspect.options import asks_mesh, output, subcommand
from mesh_inspect.output.documents import ascii_json
from mesh_inspect.output.text import escape
from mesh_inspect.view.entries import API_VERSION
from mesh_inspect.view.rows import HoldingRow, rows_of
from mesh_inspect.view.words import counted
from netloader import __version__
from netloader.discovery.advert import release_of
from netmesh import (
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    Encounter,
    Meeting,
    Member,
    MeshSettings,
    NoMeshError,
    SeedFound,
    SettingsError,
    Status,
    meet_all,
    resolve_seeds,
)

SEEDS_S: Final = 5.0
MEMBERS_S: Final = 6.0
LISTENERS_S: Final = 4.0
"""The most that each step takes. Together they leave some seconds for the trial."""

MOST_MEMBERS: Final = 64
"""Members that are met: a firewall's rule shows with a few, and each costs a connection."""


@dataclass(frozen=True, slots=True)
class _OneLook:
    """The mesh as one member shows it; nothing where nobody answered."""

    rows: Sequence[HoldingRow] = ()
    members: Sequence[Member] = ()
    answered: bool = False


class _Time:
    """What is left of the whole."""

    def __init__(self, means: Means, timeout_s: float) -> None:
        self._monotonic = means.monotonic
        self.deadline = means.monotonic() + timeout_s

    def at_most(self, seconds: float) -> float:
        return max(0.0, min(seconds, self.deadline - self._monotonic()))


@subcommand(
    "doctor", "doctor --no-transfer --timeout 10", "doctor -o json", usage_status=DoctorExit.USAGE
)
@click.option("--no-transfer", is_flag=True, help="Ask no member for a chunk of its weights.")
@output("table", "json")
@asks_mesh
def command(inquiry: Inquiry, no_transfer: bool, form: str) -> DoctorExit:
    """Look for what keeps workers on this host and the mesh apart.

    Run it as the user and with the settings of a worker that finds nobody or loads from storage.
    Ends with 0 (healthy), 1 (findings), 2 (usage) or 3 (nobody).
    """
    settings, means = inquiry.settings, inquiry.means
    left = _Time(means, DOCTOR_TIMEOUT_S if inquiry.timeout is None else inquiry.timeout)
    with log_to_stderr():
        checks, answered = _examined(inquiry, settings, left, transfers=not no_transfer)
    wrong = [finding for check in checks for finding in check.findings]
    if form == "json":
        print(_document(checks, settings.name, answered=answered))
    else:
        print("\n".join(map(escape, _told(checks))))
    if wrong:
        return DoctorExit.FINDINGS
    return DoctorExit.HEALTHY if answered else DoctorExit.NOBODY


def _examined(
    inquiry: Inquiry, settings: MeshSettings, left: _Time, *, transfers: bool
) -> tuple[list[Check], bool]:
    """All checks in the order in which they are told, and whether any member answered."""
    means = inquiry.means
    entries, problem = ((), "") if inquiry.seeds_only else host.directory(settings)
    found, seeds_problem = _seeds(settings, left)
    names = dict.fromkeys(["default", *(entry.mesh for entry in entries)])
    at_seeds = _met(
        [where for seed in found for where in seed.addresses], settings, means, left, names
    )
    here = [one.member for one in entries if one.mesh == settings.name and not one.stale]
    at_entries = _met(here, settings, means, left, names)
    seen = _look(inquiry, left)
    live = [member for member in seen.members if member.status.live]
    sample = live if len(live) <= MOST_MEMBERS else random.sample(live, MOST_MEMBERS)
    at_members = _met([member.id for member in sample], settings, means, left, names)
    endpoints = _endpoints(seen.rows)
    # What lies between two fabrics is no fault.
    ready = sorted(
        (row for row in seen.rows if row.ready and row.shares(inquiry.fabric) and not row.accusers),
        key=lambda row: row.serving,
    )
    asked = [row.holding.endpoint for row in ready if row.holding is not None]
    everywhere = (*at_seeds, *at_entries, *at_members)
    seed_facts = SeedFacts(
        found,
        {one.address: one for one in at_seeds},
        _instead(at_seeds, settings, means, left),
        seeds_problem,
    )
    greeted = listeners.greeted(asked[:MOST_MEMBERS], _has_key(settings), left.at_most(LISTENERS_S))
    statuses: dict[str, Status] = {member.id: member.status for member in live}
    anybody = seen.answered or any(one.meeting is Meeting.MEMBER for one in everywhere)
    seed_addresses = [where for seed in found for where in seed.addresses]
    checks = [
        seeds.judge(seed_facts),
        directory.judge(
            host.directory_facts(settings, entries, problem, at_entries, anybody=anybody)
        ),
        addresses.judge(host.own_address(settings, seed_addresses, everywhere, endpoints)),
        limits.judge(means.hard_limit(), host.DESCRIPTORS),
        ports.judge(PortFacts(at_members, statuses, greeted, len(live))),
        clock.judge(_once(everywhere)),
        versions.judge(_running(seen, everywhere), __version__, (OLDEST_VERSION, PROTOCOL_VERSION)),
        _trial(inquiry, settings, ready, left)
        if transfers
        else transfer.judge((), "left out (--no-transfer)"),
    ]
    return checks, anybody


def _seeds(settings: MeshSettings, left: _Time) -> tuple[Sequence[SeedFound], str]:
    try:
        return resolve_seeds(settings, left.at_most(SEEDS_S)), ""
    except SettingsError as error:
        return (), str(error)


def _met(
    where: Sequence[str],
    settings: MeshSettings,
    means: Means,
    left: _Time,
    other_meshes: dict[str, None],
) -> tuple[Encounter, ...]:
    return meet_all(
        settings,
        where,
        left.at_most(MEMBERS_S),
        other_meshes=tuple(other_meshes),
        wall_s=means.wall_s,
    )


def _look(inquiry: Inquiry, left: _Time) -> _OneLook:
    timeout_s = left.at_most(DEFAULT_TIMEOUT_S)
    if timeout_s <= 0:
        return _OneLook()
    try:
        with inquiry.observer(quiet=True) as observer:
            members = observer.look(timeout_s)
    except (NoMeshError, SettingsError):
        # What is wrong was met at the seeds and in the directory already.
        return _OneLook()
    return _OneLook(rows_of(members), members, True)


def _instead(
    met: Sequence[Encounter], settings: MeshSettings, means: Means, left: _Time
) -> dict[str, str]:
    """For addresses at which nobody listens: a member at a well-known port of the same host."""
    wrong = [one.address for one in met if one.meeting is Meeting.REFUSED]
    # MESH_PORT and PORT_RANGE here say nothing of a member that has neither.
    usual = MeshSettings(name=settings.name).well_known_ports
    places = {
        f"{where.rpartition(':')[0]}:{port}": where
        for where in wrong
        for port in dict.fromkeys((*settings.well_known_ports, *usual))
    }
    found = meet_all(settings, places, left.at_most(SEEDS_S), wall_s=means.wall_s)
    return {places[one.address]: one.address for one in found if one.meeting is Meeting.MEMBER}


def _endpoints(rows: Sequence[HoldingRow]) -> dict[str, list[str]]:
    """Where the members that are in the mesh listen, by their ids."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if not row.gone:
            listed = found.setdefault(row.member.id, [])
            if row.holding is not None and row.holding.endpoint:
                listed.append(row.holding.endpoint)
    return found


def _once(met: Sequence[Encounter]) -> list[Encounter]:
    """One encounter with each member."""
    return list({one.member: one for one in met if one.member is not None}.values())


def _running(seen: _OneLook, met: Sequence[Encounter]) -> list[RunBy]:
    protocols = {one.member: one.protocol for one in met}
    models: dict[str, list[tuple[str, str]]] = {}
    for row in seen.rows:
        version = None if row.holding is None else row.holding.fields.get("code.vllm")
        if row.model and isinstance(version, str):
            models.setdefault(row.member.id, []).append((row.model, version))
    return [
        RunBy(
            member.id,
            release_of(member.advert),
            models.get(member.id, ()),
            protocols.get(member.id),
        )
        for member in seen.members
        if member.status.live
    ]


def _trial(
    inquiry: Inquiry, settings: MeshSettings, ready: Sequence[HoldingRow], left: _Time
) -> Check:
    if not ready:
        label = f" in FABRIC {inquiry.fabric}" if inquiry.fabric else ""
        return transfer.judge((), f"nobody is ready to serve{label}")
    # Imports torch, which takes seconds and which no other check needs.
    from mesh_inspect.collect.transfer import tried

    return transfer.judge(*tried(ready, settings, left.deadline, inquiry.means.monotonic))


def _has_key(settings: MeshSettings) -> bool:
    return settings.key is not None or settings.key_file is not None


def _told(checks: Sequence[Check]) -> Iterator[str]:
    for check in checks:
        state = "wrong" if check.findings else "ok" if check.looked else "-"
        yield f"{state:<6}{check.area}: {check.summary}"
        for finding in check.findings:
            yield f"      {finding.area}: {finding.subject}: {finding.what}"
            yield f"        do: {finding.remedy}"
    wrong = sum(len(check.findings) for check in checks)
    yield counted(wrong, "finding")


def _document(checks: Sequence[Check], mesh: str, *, answered: bool) -> str:
    """Keys are never missing."""
    document = {
        "apiVersion": API_VERSION,
        "mesh": mesh,
        "answered": answered,
        "healthy": answered and not any(check.findings for check in checks),
        "checks": [asdict(check) for check in checks],
    }
    return ascii_json(document)
