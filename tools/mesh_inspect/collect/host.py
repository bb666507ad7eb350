"""What this host would give a worker: descriptors, an address, the same-host directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args

from mesh_inspect.doctor.addresses import AddressFacts
from mesh_inspect.doctor.directory import DirectoryFacts
from netloader.identity.identity import Role
from netloader.source.listener import SESSION
from netloader.source.settings import SourceSettings
from netmesh import (
    MEMBER,
    RESERVE,
    DirectoryEntry,
    Encounter,
    MeshSettings,
    SettingsError,
    directory_entries,
    own_host,
)

DESCRIPTORS: Final = (
    MEMBER + RESERVE + len(get_args(Role)) * SourceSettings().max_sessions * SESSION
)
"""What a worker with the default number of sessions needs."""


def own_address(
    settings: MeshSettings,
    seeds: Sequence[str],
    met: Sequence[Encounter],
    endpoints: Mapping[str, Sequence[str]],
) -> AddressFacts:
    """What a worker here would advertise, beside what members do."""
    host, problem = "", ""
    try:
        host = own_host(settings, seeds)
    except SettingsError as error:
        problem = str(error)
    return AddressFacts(host, problem, met, endpoints, seeds)


def directory(settings: MeshSettings) -> tuple[Sequence[DirectoryEntry], str]:
    """What is in the same-host directory, and why it cannot be used, if it cannot."""
    try:
        return directory_entries(settings), ""
    except (SettingsError, OSError) as error:
        return (), str(error)


def directory_facts(
    settings: MeshSettings,
    entries: Sequence[DirectoryEntry],
    problem: str,
    met: Sequence[Encounter],
    *,
    anybody: bool,
) -> DirectoryFacts:
    by_address = {one.address: one for one in met}
    path = str(settings.host_directory())
    return DirectoryFacts(path, entries, settings.name, by_address, anybody, problem)
