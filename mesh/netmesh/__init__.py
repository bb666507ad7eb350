"""Netmesh: a brokerless membership mesh over ZeroMQ.

Processes join under a name, publish a small JSON advert each, and see everybody else's within
seconds. Nothing central runs. `Mesh` is a member, and `observe` only looks. `MeshSettings`
configures both, and `Program` gives the words for operators. Names that are not listed here may
change without notice.
"""

from netmesh.bootstrap.advertise import is_own
from netmesh.core.member import Member
from netmesh.core.reach import Reach
from netmesh.core.records import Generation, Json, JsonObject, MemberId, Status
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
from netmesh.io.security import SocketSecurity, ZapHandler, generate_key, warn_of_readable_key
from netmesh.io.whois import KeyCount, count_keys
from netmesh.mesh import Mesh, bind_host, own_host
from netmesh.observer import forget, observe
from netmesh.ports import PortRange, listen
from netmesh.private import private_directory, user_directory
from netmesh.program import Program
from netmesh.settings import MESH_KEYS, WELL_KNOWN_PORT, MeshSettings

__all__ = [
    "MEMBER",
    "MESH_KEYS",
    "RESERVE",
    "WELL_KNOWN_PORT",
    "BindError",
    "ClosedError",
    "Descriptors",
    "Door",
    "Doorkeeper",
    "Generation",
    "Json",
    "JsonObject",
    "KeyCount",
    "KeyWatch",
    "LocalProtocolError",
    "Member",
    "MemberId",
    "Mesh",
    "MeshError",
    "MeshSettings",
    "NoMeshError",
    "PortRange",
    "Program",
    "Reach",
    "RemoteProtocolError",
    "SettingsError",
    "SocketSecurity",
    "StartError",
    "Status",
    "VersionMismatch",
    "ZapHandler",
    "all_shut",
    "bind_host",
    "count_keys",
    "drop_newcomers",
    "forget",
    "generate_key",
    "is_own",
    "keep_alive",
    "listen",
    "observe",
    "own_host",
    "prepare",
    "private_directory",
    "user_directory",
    "warn_of_readable_key",
]
