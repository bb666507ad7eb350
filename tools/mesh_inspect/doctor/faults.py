"""What a check says: a summary, and what is wrong with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Area(StrEnum):
    """What a check is about."""

    SEEDS = "seeds"
    KEY = "key"
    MESH_NAME = "mesh name"
    ADDRESS = "address"
    CLOCK = "clock"
    PORTS = "ports"
    LIMITS = "descriptors"
    VERSIONS = "versions"
    DIRECTORY = "directory"
    TRANSFER = "transfer"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong."""

    area: Area
    subject: str
    """The member, address, file or setting that it is about."""
    what: str
    remedy: str
    """What to do, as a command or an order."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one look has shown."""

    area: Area
    summary: str
    """What was looked at, in a few words; why nothing was, where `looked` is False."""
    findings: tuple[Fault, ...] = ()
    looked: bool = True
