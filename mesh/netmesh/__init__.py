"""Netmesh: a brokerless membership mesh over ZeroMQ.

Processes join under a name, publish a small JSON advert each, and see everybody else's within
seconds. Nothing central runs. `Mesh` is a member, and an `Observer` only looks. `MeshSettings`
configures both, and `Program` gives the words for operators. Names that are not listed here may
change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from netmesh.bootstrap.advertise import is_own
from netmesh.bootstrap.directory import DirectoryEntry
from netmesh.core.member import Member
from netmesh.core.reach import Reach
from netmesh.core.records import Generation, Json, JsonObject, MemberId, Status
from netmesh.core.wire import OLDEST_VERSION, PROTOCOL_VERSION
from netmesh.errors import (
    BindError,
    ClosedError,
    LocalProtocolError,
    MeshError,
    NoMeshError,
    RemoteProtocolError,
    SettingsError,
    StartError,
    VersionMismatch,
)
from netmesh.io.descriptors import MEMBER, RESERVE, Descriptors, prepare
from netmesh.io.doorkeeper import Doorkeeper
from netmesh.io.doors import Door, all_shut, drop_newcomers
from netmesh.io.keepalive import keep_alive
from netmesh.io.rotation import KeyWatch
from netmesh.io.router_ids import new_router
from netmesh.io.security import SocketSecurity, ZapHandler, generate_key, warn_of_readable_key
from netmesh.observer import Observer, forget, observe
from netmesh.ports import PortRange, listen
from netmesh.private import private_directory, user_directory
from netmesh.program import Program
from netmesh.services import is_of_service
from netmesh.settings import MESH_KEYS, WELL_KNOWN_PORT, MeshSettings

if TYPE_CHECKING:
    from netmesh.diagnosis import SeedFound, directory_entries, meet_all, resolve_seeds
    from netmesh.io.encounter import Encounter, Meeting
    from netmesh.io.whois import KeyCount, count_keys
    from netmesh.mesh import Mesh, bind_host, own_host
else:
    # A program that only looks is done in the time that the import of these takes.
    _LATER = {
        "netmesh.diagnosis": ("SeedFound", "directory_entries", "meet_all", "resolve_seeds"),
        "netmesh.io.encounter": ("Encounter", "Meeting"),
        "netmesh.io.whois": ("KeyCount", "count_keys"),
        "netmesh.mesh": ("Mesh", "bind_host", "own_host"),
    }

    def __getattr__(name):
        """Import what is asked for the first time."""
        for module, names in _LATER.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "MEMBER",
    "MESH_KEYS",
    "OLDEST_VERSION",
    "PROTOCOL_VERSION",
    "RESERVE",
    "WELL_KNOWN_PORT",
    "BindError",
    "ClosedError",
    "Descriptors",
    "DirectoryEntry",
    "Door",
    "Doorkeeper",
    "Encounter",
    "Generation",
    "Json",
    "JsonObject",
    "KeyCount",
    "KeyWatch",
    "LocalProtocolError",
    "Meeting",
    "Member",
    "MemberId",
    "Mesh",
    "MeshError",
    "MeshSettings",
    "NoMeshError",
    "Observer",
    "PortRange",
    "Program",
    "Reach",
    "RemoteProtocolError",
    "SeedFound",
    "SettingsError",
    "SocketSecurity",
    "StartError",
    "Status",
    "VersionMismatch",
    "ZapHandler",
    "all_shut",
    "bind_host",
    "count_keys",
    "directory_entries",
    "drop_newcomers",
    "forget",
    "generate_key",
    "is_of_service",
    "is_own",
    "keep_alive",
    "listen",
    "meet_all",
    "new_router",
    "observe",
    "own_host",
    "prepare",
    "private_directory",
    "resolve_seeds",
    "user_directory",
    "warn_of_readable_key",
]
