"""Netmesh: a brokerless membership mesh over ZeroMQ.

Processes join under a name, publish a small JSON advert each, and see everybody else's within
seconds. Nothing central runs. ``Mesh`` is a member, ``observe`` only looks.
"""

from netmesh.core.member import Member
from netmesh.core.records import Generation, Json, JsonObject, MemberId, Status
from netmesh.errors import (
    BindError,
    ClosedError,
    ConfigError,
    LocalProtocolError,
    MeshError,
    NoMeshError,
    RemoteProtocolError,
    VersionMismatch,
)
from netmesh.io.rotation import KeyWatch
from netmesh.io.security import SocketSecurity, ZapHandler, generate_key
from netmesh.mesh import Mesh
from netmesh.observer import observe
from netmesh.settings import WELL_KNOWN_PORT, MeshSettings

__all__ = [
    "WELL_KNOWN_PORT",
    "BindError",
    "ClosedError",
    "ConfigError",
    "Generation",
    "Json",
    "JsonObject",
    "KeyWatch",
    "LocalProtocolError",
    "Member",
    "MemberId",
    "Mesh",
    "MeshError",
    "MeshSettings",
    "NoMeshError",
    "RemoteProtocolError",
    "SocketSecurity",
    "Status",
    "VersionMismatch",
    "ZapHandler",
    "generate_key",
    "observe",
]
