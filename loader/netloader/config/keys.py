"""The operator's keys, and the field that holds each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from pydantic.fields import FieldInfo

from netloader.config.settings import WorkerSettings
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netmesh import MESH_KEYS, MeshSettings

Part = type[PullSettings] | type[SourceSettings]

FILE_SOURCE: Final = "CONFIG_FILE: SOURCE"
MESH_SETTINGS: Final = "mesh settings"
PULL_SETTINGS: Final = "pull settings"
SOURCE_SETTINGS: Final = "source settings"
STORAGE_OPTIONS: Final = "storage options"

HANDED: Final = frozenset(
    {FILE_SOURCE, MESH_SETTINGS, PULL_SETTINGS, SOURCE_SETTINGS, STORAGE_OPTIONS}
)
"""Aliases of fields that no operator sets by one key."""

IN_PARTS: Final[Mapping[str, Mapping[Part, str]]] = {
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

UPSTREAM_ONLY: Final = frozenset(
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

KEYS: Final = frozenset(
    {"CONFIG_FILE", *MESH_KEYS, *IN_PARTS}
    | {str(field.alias) for field in WorkerSettings.model_fields.values()} - HANDED
)
"""Every key that `--model-loader-extra-config` may have."""


def field_of(key: str) -> tuple[str, FieldInfo]:
    """The name of the field that holds a setting, and the field, with its default and bounds.

    Raises `KeyError` for `CONFIG_FILE`, which no field holds.
    """
    if key in IN_PARTS:
        part, name = next(iter(IN_PARTS[key].items()))
        return name, _fields(part)[name]
    if key in MESH_KEYS:
        return MESH_KEYS[key], MeshSettings.model_fields[MESH_KEYS[key]]
    for name, field in WorkerSettings.model_fields.items():
        if field.alias == key:
            return name, field
    raise KeyError(key)


def _fields(part: Part) -> Mapping[str, FieldInfo]:
    """The fields of a pydantic dataclass, which its type does not declare."""
    return cast("Mapping[str, FieldInfo]", vars(part)["__pydantic_fields__"])
