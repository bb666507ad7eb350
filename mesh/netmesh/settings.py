"""What an operator can set about the mesh, in one frozen object."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from netmesh.address import parse_address
from netmesh.core.reach import Network
from netmesh.errors import SettingsError
from netmesh.ports import HIGHEST, PortRange
from netmesh.private import user_directory
from netmesh.program import Program
from netmesh.seeds import parse_seed
from netmesh.services import is_of_service

WELL_KNOWN_PORT = 17946
"""TCP port of the first member on a host in the mesh `default`, so that a seed can be a bare host
name. The port is in the registered range, is assigned to nobody, and needs no privilege (it is
above 1024)."""

_MESHES_APART = 64
"""How many ports the names of other meshes are spread over: meshes of two jobs on the same hosts
should not look for each other's members, and a firewall should need one range."""

_NEXT = 4
"""Ports of one mesh, the next one for when another mesh or program has the one before."""


def well_known_ports(name: str) -> tuple[int, ...]:
    """Ports at which the members of a mesh are looked for, in this order; 17946 to 18012."""
    spread = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
    first = WELL_KNOWN_PORT + (0 if name == "default" else spread % _MESHES_APART)
    return tuple(range(first, first + _NEXT))


MESH_KEYS: Mapping[str, str] = {
    "MESH_NAME": "name",
    "MESH_SEEDS": "seeds",
    "MESH_PORT": "port",
    "MESH_ADVERTISE": "advertise",
    "BIND": "bind",
    "PORT_RANGE": "port_range",
    "MESH_KEY": "key",
    "MESH_KEY_FILE": "key_file",
    "MESH_INSECURE": "insecure",
    "MESH_DIRECTORY": "directory",
    "MESH_KUBERNETES_SERVICE": "kubernetes_service",
    "MESH_NETWORKS": "networks",
}
"""Operator's key -> field of MeshSettings. An environment variable is such a key with
`Program.prefix` in front. Only the program sets the other fields."""

ALLOWED: Mapping[str, str] = {
    "MESH_NAME": "use 1 to 64 letters, digits, dots, underscores and hyphens",
    "MESH_SEEDS": "use a list of first contacts, or a text with commas between them",
    "MESH_PORT": "use an integer, 1024..65535",
    "MESH_ADVERTISE": "use host or host:port",
    "BIND": "use an IP address of this host, such as 10.0.0.7 or fd00::7",
    "PORT_RANGE": "use a range of ports in a text, such as 20000-20100",
    "MESH_KEY": "use a text of 64 hexadecimal digits or of base64",
    "MESH_KEY_FILE": "use the path of a file",
    "MESH_INSECURE": "use true or false",
    "MESH_DIRECTORY": "use the path of a folder",
    "MESH_KUBERNETES_SERVICE": "use name or name.namespace, up to 253 characters",
    "MESH_NETWORKS": "use networks as 10.0.0.0/8 or fd00::/8, separated by commas",
}
"""What to write where a value has the wrong type or is out of bounds. Other faults say it
themselves."""


class MeshSettings(BaseModel):
    """Settings of one member. Every default works on one machine with nothing set."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")] = (
        "default"
    )
    """Name of the mesh. Members of meshes with different names never talk, even with one key on one
    port: the name is part of the key derivation."""

    seeds: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    """First contacts: a list, or one text with commas between them. If set, the scheduler's
    environment is not asked. Two or three are enough; they are asked again for ever. Default: the
    scheduler's environment and the same-host directory."""

    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """TCP port to listen on. The first process of a program on a host takes it, the next ones the
    ports after it; seeds without a port mean that port too. If another program has the port, the
    member says so, takes a free one, and listens on this one, too, once it is free. It does not if
    `MESH_ADVERTISE` names a port, which nothing else can stand for. Without a setting, the first
    four members of a host take the four ports of their mesh, the others free ones. They are 17946
    to 17949 for `default`; another name has four of 17946 to 18012. A member that did not get the
    first one listens there, too, once it is free. Default: the first free one of the mesh's four,
    else any."""

    advertise: str | None = None
    """`host` or `host:port` at which others reach this member; needed behind NAT or with several
    networks. Of a name with several addresses, the first of the seeds' family counts, one of this
    host before others. Default: chosen from this host's addresses."""

    bind: str | None = None
    """IP address of this host that all ports are bound to. Without it, a member that advertises
    loopback binds loopback. Any other binds every interface for the mesh, and for what is
    transferred the advertised address, or every interface where none has that address. An address
    that no interface has stops the start. So does loopback while a seed is on another machine and
    nothing says what to advertise. Default: loopback or all, by the advertised address."""

    port_range: PortRange | None = None
    """`first-last`: every port that no other setting names is one of these. The mesh takes the
    first four of them for its own, and seeds without a port mean these. Default: any free ports."""

    key: SecretStr | None = None
    """Cluster key (64 hexadecimal digits or base64 of 32 bytes), up to four, separated by commas,
    the current one first. Set it in the environment only, because every user of the machine can
    read a command line. Default: none; without a key or key file a member stays on loopback."""

    key_file: Path | None = None
    """File with the cluster key, one a line, the current one first; read again every 10 s. Safer
    than `MESH_KEY`, because every child process inherits environment variables. Default: none."""

    insecure: bool = False
    """Leave loopback without a key. Whoever reaches the port is a member, and can read and forge
    adverts."""

    directory: Path | None = None
    """Where members of this host and user meet; only that user may enter it (mode 0700). Members
    use its folder `netmesh` and touch no other file in the directory. It says where members meet,
    not which mesh they are in: `MESH_NAME` keeps meshes apart. If somebody else could write to the
    default directory, a member warns and does without it; a directory that is set must be safe, or
    the start fails. Hosts and containers may share one. Default: `$XDG_RUNTIME_DIR/netmesh-<uid>`,
    else `<temporary directory>/netmesh-<uid>`."""

    kubernetes_service: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Headless service to ask inside Kubernetes. Default: the one that the program names."""

    networks: Annotated[tuple[Network, ...], Field(max_length=64)] = ()
    """Networks (CIDR) that members may be in. The member advertises an address in one of them, and
    takes in, connects to and pulls from no member elsewhere. Loopback needs no entry: a member that
    advertises it knows loopback only. Default: all."""

    read_key_again_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between two reads of the key file. A read is a few hundred bytes from the page cache,
    and the steps of a rotation are minutes apart."""

    offset: Annotated[int, Field(ge=0)] = 0
    """How many processes with these settings come before this one on its host. Added to `port` and
    to the port of `advertise`, so that each has its own."""

    program: Program = Program()
    """The program that uses the mesh: its names and words for the operator."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _split_seeds(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            # An IPv6 literal starts like this, too, so a text that is not JSON is not an error.
            try:
                return orjson.loads(value)
            except orjson.JSONDecodeError:
                pass
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("networks", mode="before")
    @classmethod
    def _parse_networks(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise ValueError("use networks as 10.0.0.0/8 or fd00::/8, separated by commas")
        return tuple(_network(one) for one in value)

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for seed in value:
            _as_value_error(parse_seed, seed)
        return value

    @field_validator("advertise")
    @classmethod
    def _check_advertise(cls, value: str | None) -> str | None:
        if value is not None:
            _as_value_error(parse_address, value)
        return value

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return str(ipaddress.ip_address(value.strip("[]")))
        except ValueError:
            raise ValueError(
                "use an IP address of this host, such as 10.0.0.7 or fd00::7"
            ) from None

    @field_validator("port_range", mode="before")
    @classmethod
    def _parse_ports(cls, value: object) -> object:
        return PortRange.parse(value) if isinstance(value, str) else value

    @property
    def own_port(self) -> int | None:
        """The port that this process must listen on; None when nobody has set one. Raises
        SettingsError."""
        if self.port is None:
            return None
        if self.port + self.offset > HIGHEST:
            raise SettingsError(
                "MESH_PORT", self.port, f"with {self.offset} added it must be at most {HIGHEST}"
            )
        return self.port + self.offset

    @property
    def well_known_ports(self) -> tuple[int, ...]:
        """Ports of a member that was given none, and of seeds that name none; the first is the
        usual one."""
        if self.port is not None:
            return (self.port,)
        if self.port_range is not None:
            return tuple(self.port_range.all[:_NEXT])
        return well_known_ports(self.name)

    def host_directory(self, environ: Mapping[str, str] | None = None) -> Path:
        """Where members of this host and user find each other. Creates and checks nothing."""
        return self.directory or user_directory("netmesh", environ)

    @classmethod
    def load(
        cls,
        values: Mapping[str, object],
        environ: Mapping[str, str] | None = None,
        program: Program | None = None,
    ) -> MeshSettings:
        """Settings from the operator's keys (`MESH_NAME` ...) over the environment's.

        `program` gives the prefix of the environment variables. Keys that are not the mesh's are
        ignored, because they belong to the caller. Raises SettingsError naming the key, the value
        (never a secret) and what is allowed. Variables that Kubernetes wrote are passed over.
        """
        environ = os.environ if environ is None else environ
        program = program or Program()
        chosen: dict[str, object] = {"program": program}
        for key, field in MESH_KEYS.items():
            if key in values:
                chosen[field] = values[key]
                continue
            variable = program.prefix + key
            value = environ.get(variable, "")
            if value != "" and not is_of_service(variable, value):
                chosen[field] = value
        try:
            return cls.model_validate(chosen)
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            key = next(key for key, name in MESH_KEYS.items() if name == field)
            shown = "(secret)" if field == "key" else chosen[field]
            said = first["msg"].removeprefix("Value error, ")
            allowed = said if first["type"] == "value_error" else ALLOWED[key]
            raise SettingsError(key, shown, allowed) from None


def _network(value: object) -> Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        # A number would be taken for an address.
        return ipaddress.ip_network(value if isinstance(value, str) else repr(value))
    except ValueError as error:
        raise ValueError(f"{error}; use networks as 10.0.0.0/8 or fd00::/8") from None


def _as_value_error(parse: Callable[[str, int], object], text: str) -> None:
    """Run a parser inside a pydantic validator, which understands ValueError only."""
    try:
        parse(text, WELL_KNOWN_PORT)
    except SettingsError as error:
        raise ValueError(str(error)) from None
