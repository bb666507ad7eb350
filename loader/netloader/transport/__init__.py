"""Stateless two-rank process groups, with one implementation for each way to carry bytes."""

from __future__ import annotations

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE, Backend, Group, Pending
from netloader.transport.registry import backends_for
from netloader.transport.rendezvous import Rendezvous, join

__all__ = [
    "REPLICA",
    "SOURCE",
    "Backend",
    "Group",
    "Pending",
    "Rendezvous",
    "TransportError",
    "backends_for",
    "join",
]
