"""Settings of the loader: `--model-loader-extra-config`, `CONFIG_FILE` and the environment.

The first seven keys are vLLM Ascend Netloader's and mean what they mean there. Every other key can
also be set in the environment with `NETLOADER_` in front (`MESH_SEEDS` -> `NETLOADER_MESH_SEEDS`).
Precedence: `CONFIG_FILE`, then the extra config, then the environment. Both `SOURCE` lists are
used, that of `CONFIG_FILE` first. An unknown key or a bad value stops the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar, cast

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

import netmesh
from netloader import bounds
from netloader.errors import ConfigError
from netloader.identity.identity import Evidence
from netloader.program import ENV_PREFIX, PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netloader.terms import KeepMode, UpstreamUse
from netloader.transport.registry import TRANSPORTS
from netloader.transport.sealed import missing
from netloader.transport.tcp import SealedBackend
from netloader.weights.manifest import CHUNK_BYTES
from netmesh import MESH_KEYS, MeshSettings

DRAFT_PORT_OFFSET = 10_000
"""Added to `LISTEN_PORT` for a draft model, as upstream does."""

MIN_PORT, MAX_PORT = 1024, 65_535

MIN_RATE_LIMIT = 1_000_000
"""Bytes per second. Below this rate, turns of many sessions lie further apart than
`TRANSFER_TIMEOUT` allows: see `throttle.py`."""

MIN_CHUNK_BYTES, MAX_CHUNK_BYTES, CHUNK_STEP = 1 << 20, 64 << 20, 4096
"""Smaller chunks cost more in messages than in bytes; larger ones hold too much staging memory and
leave too much to fetch again. Chunks are a multiple of the page, so that pieces of a tensor begin
on a page."""

_UPSTREAM_ONLY = frozenset(
    {
        "SOURCE",
        "MODEL",
        "LISTEN_PORT",
        "INT8_CACHE",
        "INT8_CACHE_NAME",
        "OUTPUT_PREFIX",
        "CONFIG_FILE",
    }
)
"""Keys without an environment variable, as upstream has none for them."""

# Operators may not use these keys: `load` passes what it has taken apart under them.
_FILE_SOURCE = "CONFIG_FILE: SOURCE"
_MESH_SETTINGS = "mesh settings"
_PULL_SETTINGS = "pull settings"
_SOURCE_SETTINGS = "source settings"
_STORAGE_OPTIONS = "storage options"

_P = TypeVar("_P", PullSettings, SourceSettings)
_Part = type[PullSettings] | type[SourceSettings]

_IN_PARTS: Mapping[str, Mapping[_Part, str]] = {
    "TRANSFER_TIMEOUT": {PullSettings: "timeout_s", SourceSettings: "timeout_s"},
    "MAX_SOURCES": {PullSettings: "max_sources"},
    "SOURCE_TIMEOUT": {PullSettings: "source_timeout_s"},
    "PEER_BUDGET": {PullSettings: "peer_budget_s"},
    "MIN_RATE": {PullSettings: "min_rate"},
    "VERIFY": {PullSettings: "verify"},
    "MAX_SESSIONS": {SourceSettings: "max_sessions"},
    "FABRIC": {SourceSettings: "fabric"},
}
"""Operator's key -> the fields that it sets. The fields give defaults, bounds and reasons."""


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _not_bool(value: object) -> object:
    """pydantic takes true for 1, and nobody who writes true for a number means 1."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def _check_port(endpoint: str) -> str:
    port = int(endpoint.rpartition(":")[2])
    if not 1 <= port <= MAX_PORT:
        raise ValueError(f"there is no port {port}")
    return endpoint


def _from_json(value: object) -> object:
    """An environment variable holds text."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None


_Endpoint = Annotated[
    str,
    StringConstraints(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\s]+):[0-9]{1,5}$"),
    AfterValidator(_check_port),
]
_Integer = Annotated[int, BeforeValidator(_not_bool)]
_NonEmpty = Annotated[str, StringConstraints(min_length=1)]


def _names(value: object) -> object:
    """Names from the environment: with commas between them, or JSON."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return _from_json(value)
    return [name.strip() for name in value.split(",")]


class RankSources(BaseModel):
    """The static sources of one rank."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_id: int = Field(ge=0)
    """Global rank of the worker that these sources are for."""
    sources: tuple[_Endpoint, ...]
    """`ip:port` of the sources' listeners, tried in this order."""


class Config(BaseModel):
    """The settings of one worker. Made with `Config.load`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    file_source: tuple[RankSources, ...] = Field(default=(), alias="CONFIG_FILE: SOURCE")
    """The `SOURCE` of `CONFIG_FILE`. Tried before every other."""
    source: tuple[RankSources, ...] = Field(default=(), alias="SOURCE")
    """Static sources. Tried before the mesh."""
    model: _NonEmpty | None = Field(default=None, alias="MODEL")
    """Name of the target. Two workers with different names never share; if one of them has no name,
    names do not matter. Default: none."""
    listen_port: int | None = Field(default=None, alias="LISTEN_PORT", ge=MIN_PORT, le=MAX_PORT)
    """Base port of the listener (the rank is added); default: a free port."""
    listen_advertise: int | None = Field(default=None, alias="LISTEN_ADVERTISE", ge=1, le=MAX_PORT)
    """Port at which others reach the listener, where `LISTEN_PORT` is published under another one;
    the rank is added to both. Its host is that of `MESH_ADVERTISE`. Default: the same port."""
    int8_cache: Annotated[KeepMode | None, BeforeValidator(_lower)] = Field(
        default=None, alias="INT8_CACHE"
    )
    """Where originals are kept; default: `dram` on CPU, where vLLM always packs, else `no`."""
    int8_cache_name: tuple[_NonEmpty, ...] | None = Field(default=None, alias="INT8_CACHE_NAME")
    """Parts of tensor names that `INT8_CACHE` applies to; default: every tensor."""
    output_prefix: _NonEmpty | None = Field(default=None, alias="OUTPUT_PREFIX")
    """Each rank writes `IP:Port` of its listener to `{OUTPUT_PREFIX}{RANK}.txt`."""

    upstream: Annotated[UpstreamUse, BeforeValidator(_lower)] = Field(
        default=UpstreamUse.OFF, alias="UPSTREAM"
    )
    """Transfers with vLLM Ascend's own Netloader. Off, because they are neither authenticated nor
    verified."""
    upstream_insecure: bool = Field(default=False, alias="UPSTREAM_INSECURE")
    """Whether such transfers are allowed although this worker has a cluster key. They go around
    the key."""

    mesh: bool = Field(default=True, alias="MESH")
    """Whether to join the mesh. If off, only `SOURCE` and storage are used."""
    mesh_settings: MeshSettings = Field(
        default=MeshSettings(program=PROGRAM), alias="mesh settings"
    )
    """The keys of `netmesh.MESH_KEYS` (`MESH_NAME`, `MESH_SEEDS`, ...)."""

    discovery_timeout_s: float = Field(default=3.0, alias="DISCOVERY_TIMEOUT", ge=0, le=600)
    """Seconds to wait for the mesh to answer before a worker counts as alone. A live mesh answers
    within a round trip; this limit is for the case that all its contacts are dead."""
    pull_settings: PullSettings = Field(default=PullSettings(), alias="pull settings")
    """Settings of the replica's side: `TRANSFER_TIMEOUT`, `MAX_SOURCES`, `SOURCE_TIMEOUT`,
    `PEER_BUDGET`, `MIN_RATE`, `VERIFY`."""
    source_settings: SourceSettings = Field(default=SourceSettings(), alias="source settings")
    """Settings of the source's side: `TRANSFER_TIMEOUT`, `MAX_SESSIONS`, `FABRIC`."""
    rate_limit: _Integer | None = Field(default=None, alias="RATE_LIMIT", ge=MIN_RATE_LIMIT)
    """Bytes per second that this worker hands out, over all sessions and models; default: as many
    as the link takes. For links that the model's own traffic also needs."""
    transports: Annotated[
        tuple[Literal["hccl", "nccl", "tcp", "gloo", "tcp-sealed"], ...] | None,
        BeforeValidator(_names),
        Field(min_length=1),
    ] = Field(default=None, alias="TRANSPORTS")
    """What may carry this worker's weights, best first; default: all that this machine has. Only
    `tcp-sealed` keeps them from others on the network."""
    chunk_bytes: _Integer = Field(
        default=CHUNK_BYTES,
        alias="CHUNK_BYTES",
        ge=MIN_CHUNK_BYTES,
        le=MAX_CHUNK_BYTES,
        multiple_of=CHUNK_STEP,
    )
    """Bytes of a chunk, the unit that is asked for and verified; 16..64 MiB are sensible. Must be
    the same on all peers: a source refuses a replica whose chunks are cut differently."""
    digest: Literal["sample", "full"] = Field(default="sample", alias="IDENTITY")
    """How checkpoint files are read for comparison: some bytes of every tensor, or all bytes."""
    content: Annotated[
        str | None,
        StringConstraints(pattern=rf"^({'|'.join(Evidence)}):\S{{1,512}}$"),
    ] = Field(default=None, alias="CONTENT")
    """Content id that the target's weights must have, as a source prints it (`sample:1f0c...`). For
    workers without weight files. Default: the content of the worker's own files."""
    storage_format: _NonEmpty = Field(default="auto", alias="STORAGE_FORMAT")
    """`--load-format` for reading storage."""
    storage_config: Annotated[dict[str, object], BeforeValidator(_from_json)] = Field(
        default_factory=dict, alias="STORAGE_CONFIG"
    )
    """`--model-loader-extra-config` for reading storage."""
    storage_options: dict[str, object] = Field(default_factory=dict, alias="storage options")
    """Keys of the extra config that belong to vLLM's loader for storage, not to us."""
    metrics_port: int | None = Field(default=None, alias="METRICS_PORT", ge=MIN_PORT, le=MAX_PORT)
    """Base port of metrics for Prometheus (the rank is added); default: none."""
    metrics_host: _NonEmpty = Field(default="127.0.0.1", alias="METRICS_HOST")
    """Address on which metrics can be read. Anybody who reaches it can read them."""
    report_prefix: _NonEmpty | None = Field(default=None, alias="REPORT_PREFIX")
    """Each rank writes where its weights came from to `{REPORT_PREFIX}{RANK}.json`."""
    report_tensors: bool = Field(default=False, alias="REPORT_TENSORS")
    """Whether the report lists the SHA-256 of every tensor (reads all weights once more)."""

    @field_validator("file_source", "source")
    @classmethod
    def _one_entry_per_rank(cls, value: tuple[RankSources, ...]) -> tuple[RankSources, ...]:
        ranks = [entry.device_id for entry in value]
        if len(set(ranks)) != len(ranks):
            raise ValueError("every device_id may appear once")
        return value

    @field_validator("transports")
    @classmethod
    def _each_transport_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and len({*value}) != len(value):
            raise ValueError("every transport may appear once")
        return value

    @classmethod
    def load(
        cls,
        extra: object,
        environ: Mapping[str, str],
        for_storage: Callable[[str], bool] = lambda key: False,
    ) -> Self:
        """Merge the three places a setting can come from, and validate the result.

        `for_storage` says whether a key that is not ours belongs to vLLM's loader for storage.
        Raises `ConfigError` naming the key, the value and what is allowed.
        """
        if not isinstance(extra, Mapping):
            raise ConfigError("--model-loader-extra-config", extra, "it must be a JSON object")
        options: dict[str, object] = {}
        merged: dict[str, object] = _from_environment(environ)
        merged.update(_known(extra, for_storage, options))
        path = merged.pop("CONFIG_FILE", None)
        if path is not None:
            from_file = _known(_read_config_file(path), for_storage, options)
            if "SOURCE" in from_file:
                from_file[_FILE_SOURCE] = from_file.pop("SOURCE")
            merged.update(from_file)
        own = {key: value for key, value in merged.items() if key not in MESH_KEYS}
        try:
            handed = {
                _MESH_SETTINGS: MeshSettings.load(merged, environ, PROGRAM),
                _PULL_SETTINGS: _part(PullSettings, own),
                _SOURCE_SETTINGS: _part(SourceSettings, own),
                _STORAGE_OPTIONS: options,
            }
            rest = {key: value for key, value in own.items() if key not in _IN_PARTS}
            made = cls.model_validate(rest | handed)
        except netmesh.SettingsError as error:
            raise ConfigError(error.key, error.value, error.allowed) from None
        except ValidationError as error:
            raise _explain(error, merged) from None
        made._check_ports()
        made._check_sealed()
        made._check_upstream()
        return made

    def _check_ports(self) -> None:
        """Raise `ConfigError` for ports that nobody could reach."""
        if self.listen_advertise is not None and self.listen_port is None:
            raise ConfigError(
                "LISTEN_ADVERTISE",
                self.listen_advertise,
                "it needs LISTEN_PORT, which it stands for",
            )
        if self.mesh_settings.port_range is None:
            return
        free = sorted({"gloo", "nccl"} & {*(self.transports or ())})
        if free:
            raise ConfigError(
                "TRANSPORTS",
                ",".join(self.transports or ()),
                f"{' and '.join(free)} opens ports that PORT_RANGE cannot bound: leave it out",
            )

    def _check_sealed(self) -> None:
        """Raise `ConfigError` if weights shall be encrypted and cannot be."""
        if self.transports is None or SealedBackend.name not in self.transports:
            return
        lacks = missing()
        if lacks is None and not self.has_key:
            lacks = (
                "without a cluster key others can learn the secret that seals the weights: set "
                "MESH_KEY_FILE"
            )
        if lacks is not None:
            raise ConfigError("TRANSPORTS", ",".join(self.transports), lacks)

    def _check_upstream(self) -> None:
        """Raise `ConfigError` if upstream's transfers would go around a cluster key unasked."""
        if self.upstream is UpstreamUse.OFF or not self.has_key or self.upstream_insecure:
            return
        raise ConfigError(
            "UPSTREAM",
            str(self.upstream),
            "this worker has a cluster key, and upstream's transfers go around it: leave "
            "UPSTREAM off, or also set UPSTREAM_INSECURE to allow transfers without "
            "authentication",
        )

    @property
    def fabric(self) -> str:
        """The label that transfers go by; empty without `FABRIC`."""
        return self.source_settings.fabric or ""

    @property
    def has_key(self) -> bool:
        """Whether this worker has a cluster key."""
        return self.mesh_settings.key is not None or self.mesh_settings.key_file is not None

    @property
    def content_demanded(self) -> dict[Evidence, str]:
        """The content that `CONTENT` asks for; empty when it is not set."""
        if self.content is None:
            return {}
        kind, _, value = self.content.partition(":")
        return {Evidence(kind): value}

    @property
    def storage_extra_config(self) -> dict[str, object]:
        """`--model-loader-extra-config` for the loader that reads storage."""
        return self.storage_config | self.storage_options

    def sources_of(self, rank: int, *, draft: bool = False) -> tuple[tuple[str, str], ...]:
        """Static sources of one global rank, in order: (endpoint, the setting it came from).

        The lists name the targets' listeners. A draft's port is `DRAFT_PORT_OFFSET` above, if there
        is such a port.
        """
        places = ((self.file_source, "SOURCE of CONFIG_FILE"), (self.source, "SOURCE"))
        listed = (
            (endpoint, origin)
            for entries, origin in places
            for entry in entries
            if entry.device_id == rank
            for endpoint in entry.sources
        )
        if not draft:
            return tuple(listed)
        found = []
        for endpoint, origin in listed:
            host, _, port = endpoint.rpartition(":")
            if int(port) + DRAFT_PORT_OFFSET <= MAX_PORT:
                found.append((f"{host}:{int(port) + DRAFT_PORT_OFFSET}", origin))
        return tuple(found)

    def metrics_address(self, rank: int) -> tuple[str, int] | None:
        """Host and port of one global rank's metrics; None when they are off.

        Raises `ConfigError` when the port leaves 1024..65535.
        """
        if self.metrics_port is None:
            return None
        port = self.metrics_port + rank
        if port > MAX_PORT:
            raise ConfigError(
                "METRICS_PORT",
                self.metrics_port,
                f"METRICS_PORT + rank {rank} = {port} must be at most {MAX_PORT}",
            )
        return self.metrics_host, port

    def port_of(self, rank: int, *, draft: bool) -> int | None:
        """The listener's port for one global rank; None means any free one.

        Raises `ConfigError` when the sum leaves 1024..65535.
        """
        if self.listen_port is None:
            return None
        port = self.listen_port + rank + (DRAFT_PORT_OFFSET if draft else 0)
        if port > MAX_PORT:
            parts = f"LISTEN_PORT + rank {rank}" + (" + 10000 for the draft model" if draft else "")
            raise ConfigError(
                "LISTEN_PORT", self.listen_port, f"{parts} = {port} must be at most {MAX_PORT}"
            )
        return port

    def public_port_of(self, rank: int, *, draft: bool) -> int | None:
        """Where replicas reach the listener of one rank, if not at its own port. Raises
        `ConfigError` when there is no such port."""
        if self.listen_advertise is None:
            return None
        port = self.listen_advertise + rank + (DRAFT_PORT_OFFSET if draft else 0)
        if port > MAX_PORT:
            raise ConfigError(
                "LISTEN_ADVERTISE", self.listen_advertise, f"{port} must be at most {MAX_PORT}"
            )
        return port


_HANDED = {_FILE_SOURCE, _MESH_SETTINGS, _PULL_SETTINGS, _SOURCE_SETTINGS, _STORAGE_OPTIONS}

KEYS = frozenset(
    {"CONFIG_FILE", *MESH_KEYS, *_IN_PARTS}
    | {str(field.alias) for field in Config.model_fields.values()} - _HANDED
)
"""Every key that `--model-loader-extra-config` may have."""


def field_of(key: str) -> tuple[str, FieldInfo]:
    """The name of the field that holds a setting, and the field, with its default and bounds.

    Raises `KeyError` for `CONFIG_FILE`, which no field holds.
    """
    if key in _IN_PARTS:
        part, name = next(iter(_IN_PARTS[key].items()))
        return name, _fields(part)[name]
    if key in MESH_KEYS:
        return MESH_KEYS[key], MeshSettings.model_fields[MESH_KEYS[key]]
    for name, field in Config.model_fields.items():
        if field.alias == key:
            return name, field
    raise KeyError(key)


def _fields(part: _Part) -> Mapping[str, FieldInfo]:
    """The fields of a pydantic dataclass, which its type does not declare."""
    return cast("Mapping[str, FieldInfo]", vars(part)["__pydantic_fields__"])


def allowed(key: str) -> str:
    """The allowed values of a setting, in words; empty where only the validation can tell."""
    if key in _WORDS:
        return _WORDS[key]
    return bounds.allowed(*field_of(key)) + _NOTES.get(key, "")


_KNOWN = ", ".join(sorted(KEYS))


def _known(
    given: Mapping[object, object] | Mapping[str, object],
    for_storage: Callable[[str], bool],
    options: dict[str, object],
) -> dict[str, object]:
    """Our keys among `given`; those of the loader for storage go to `options`."""
    ours: dict[str, object] = {}
    for key, value in given.items():
        name = str(key)
        if name in KEYS:
            ours[name] = value
        elif for_storage(name):
            options[name] = value
        else:
            raise ConfigError(
                name,
                value,
                f"the key is unknown; known are {_KNOWN}; and those of vLLM's own loader for the "
                "STORAGE_FORMAT in use, which can also be given together as STORAGE_CONFIG",
            )
    return ours


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in KEYS - _UPSTREAM_ONLY - set(MESH_KEYS):
        value = environ.get(ENV_PREFIX + key)
        if value is not None and value != "":
            found[key] = value
    return found


def _read_config_file(path: object) -> dict[str, object]:
    if not isinstance(path, str):
        raise ConfigError("CONFIG_FILE", path, "it must be the path of a JSON file")
    try:
        content = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError("CONFIG_FILE", path, f"the file cannot be read: {error}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError("CONFIG_FILE", path, f"the file is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError("CONFIG_FILE", path, "the file must hold a JSON object")
    if "CONFIG_FILE" in content:
        raise ConfigError("CONFIG_FILE", path, "the file may not name another CONFIG_FILE")
    return content


_WORDS = {
    "SOURCE": 'a list like [{"device_id": 0, "sources": ["10.0.0.1:19374"]}], each device_id once',
    "INT8_CACHE_NAME": "a list of non-empty strings",
    "TRANSPORTS": f"a list of {', '.join(TRANSPORTS)}, each once",
    "CONTENT": "a content id as a source prints it, like sample:1f0c... (kinds: "
    f"{', '.join(Evidence)})",
    "STORAGE_FORMAT": "a load format of vLLM other than netloader",
    "STORAGE_CONFIG": "a JSON object, handed to the loader of STORAGE_FORMAT",
}
"""Allowed values that the types of the fields do not tell."""

_NOTES = {
    "LISTEN_PORT": " after the rank (and 10000 for a draft model) is added",
    "METRICS_PORT": " after the rank is added",
    "CHUNK_BYTES": ", the same on all peers",
}


def _part(part: type[_P], given: Mapping[str, object]) -> _P:
    """The settings of one part. Raises `ConfigError`."""
    chosen: dict[str, object] = {}
    keys: dict[str, str] = {}
    for key, places in _IN_PARTS.items():
        name = places.get(part)
        if name is not None and key in given:
            keys[name] = key
            chosen[name] = given[key]
            _, field = field_of(key)
            if isinstance(given[key], bool) and field.annotation is not bool:
                # pydantic takes true for 1, and nobody who writes true for a number means 1.
                raise ConfigError(key, given[key], allowed(key))
    try:
        return TypeAdapter(part).validate_python(chosen)
    except ValidationError as error:
        key = keys[str(error.errors()[0]["loc"][0])]
        raise ConfigError(key, given[key], allowed(key)) from None


def _explain(error: ValidationError, given: Mapping[str, object]) -> ConfigError:
    """Turn the first of pydantic's complaints into ours."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    where = "".join(f"[{part!r}]" for part in first["loc"][1:])
    known = allowed("SOURCE" if key == _FILE_SOURCE else key)
    if where and known:
        known = f"{known} (at {where}: {first['msg']})"
    return ConfigError(key, given.get(key), known or first["msg"])
