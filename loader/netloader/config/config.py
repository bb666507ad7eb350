"""One worker's configuration: its settings composed and checked, and what they mean for a rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self, TypeVar

from pydantic import TypeAdapter, ValidationError

import netmesh
from netloader.config.checks import check
from netloader.config.keys import (
    IN_PARTS,
    MESH_SETTINGS,
    PULL_SETTINGS,
    SOURCE_SETTINGS,
    STORAGE_OPTIONS,
    field_of,
)
from netloader.config.places import merge
from netloader.config.settings import WorkerSettings
from netloader.config.values import MAX_PORT
from netloader.config.words import allowed, explain
from netloader.errors import ConfigError
from netloader.program import PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netmesh import MESH_KEYS, MeshSettings

DRAFT_PORT_OFFSET = 10_000
"""Added to `LISTEN_PORT` for a draft model, as upstream does."""

_P = TypeVar("_P", PullSettings, SourceSettings)


class Config(WorkerSettings):
    """The settings of one worker, checked. Made with `Config.load`."""

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
        given = merge(extra, environ, for_storage)
        own = {key: value for key, value in given.values.items() if key not in MESH_KEYS}
        try:
            handed = {
                MESH_SETTINGS: MeshSettings.load(given.values, environ, PROGRAM),
                PULL_SETTINGS: _part(PullSettings, own),
                SOURCE_SETTINGS: _part(SourceSettings, own),
                STORAGE_OPTIONS: given.for_storage,
            }
            rest = {key: value for key, value in own.items() if key not in IN_PARTS}
            made = cls.model_validate(rest | handed)
        except netmesh.SettingsError as error:
            raise ConfigError(error.key, error.value, error.allowed) from None
        except ValidationError as error:
            raise explain(error, given.values) from None
        check(made)
        return made

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
        return self.metrics_host, _port("METRICS_PORT", self.metrics_port, rank)

    def port_of(self, rank: int, *, draft: bool) -> int | None:
        """The listener's port for one global rank; None means any free one.

        Raises `ConfigError` when the sum leaves 1024..65535.
        """
        if self.listen_port is None:
            return None
        return _port("LISTEN_PORT", self.listen_port, rank, draft=draft)

    def public_port_of(self, rank: int, *, draft: bool) -> int | None:
        """Where replicas reach the listener of one rank, if not at its own port. Raises
        `ConfigError` when there is no such port."""
        if self.listen_advertise is None:
            return None
        return _port("LISTEN_ADVERTISE", self.listen_advertise, rank, draft=draft)


def _port(key: str, base: int, rank: int, *, draft: bool = False) -> int:
    """The port of one rank, from the base port that a setting gives. Raises `ConfigError`."""
    port = base + rank + (DRAFT_PORT_OFFSET if draft else 0)
    if port > MAX_PORT:
        added = f"rank {rank}" + (f" + {DRAFT_PORT_OFFSET} for the draft model" if draft else "")
        raise ConfigError(key, base, f"{key} + {added} = {port} must be at most {MAX_PORT}")
    return port


def _part(part: type[_P], given: Mapping[str, object]) -> _P:
    """The settings of one part. Raises `ConfigError`."""
    chosen: dict[str, object] = {}
    keys: dict[str, str] = {}
    for key, places in IN_PARTS.items():
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
