"""Stateless two-rank process groups, one implementation per kind of device."""

from __future__ import annotations

from netloader.errors import TransportError
from netloader.transport.base import REPLICA, SOURCE, Backend, Group, Pending
from netloader.transport.gloo import GlooBackend
from netloader.transport.rendezvous import Rendezvous, join

__all__ = [
    "REPLICA",
    "SOURCE",
    "Backend",
    "Group",
    "Pending",
    "Rendezvous",
    "TransportError",
    "backend_for",
    "join",
]

_BACKENDS: dict[str, Backend] = {"cpu": GlooBackend()}


def backend_for(device_type: str) -> Backend | None:
    """What carries bytes between devices of this torch type; None when nothing here does yet."""
    return _BACKENDS.get(device_type)
