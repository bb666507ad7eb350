"""The places that a setting can come from: `CONFIG_FILE`, the extra config, the environment.

The first of them that has a key decides. Both `SOURCE` lists are used, that of `CONFIG_FILE`
first: it stays apart, under `keys.FILE_SOURCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from netloader.config.keys import FILE_SOURCE, KEYS, UPSTREAM_ONLY
from netloader.errors import ConfigError
from netloader.program import ENV_PREFIX
from netmesh import MESH_KEYS, is_of_service

_KNOWN = ", ".join(sorted(KEYS))


@dataclass(frozen=True)
class Given:
    """What the operator wrote, before any value is validated."""

    values: Mapping[str, object]
    """By our keys. The mesh reads its own keys from the environment."""
    for_storage: Mapping[str, object]
    """What belongs to vLLM's loader for storage."""


def merge(
    extra: object, environ: Mapping[str, str], is_for_storage: Callable[[str], bool]
) -> Given:
    """Read all places. `extra`: `--model-loader-extra-config`.

    `is_for_storage` says whether a key that is not ours belongs to vLLM's loader for storage.
    Raises `ConfigError` for an unknown key and an unusable `CONFIG_FILE`.
    """
    if not isinstance(extra, Mapping):
        raise ConfigError("--model-loader-extra-config", extra, "it must be a JSON object")
    ours, options = _parted(extra, is_for_storage)
    values = _from_environment(environ) | ours
    path = values.pop("CONFIG_FILE", None)
    if path is not None:
        from_file, more = _parted(_read(path), is_for_storage)
        if "SOURCE" in from_file:
            from_file[FILE_SOURCE] = from_file.pop("SOURCE")
        values |= from_file
        options |= more
    return Given(values, options)


def _parted(
    given: Mapping[object, object] | Mapping[str, object], is_for_storage: Callable[[str], bool]
) -> tuple[dict[str, object], dict[str, object]]:
    """What is ours among `given`, and what is for the loader for storage."""
    ours: dict[str, object] = {}
    options: dict[str, object] = {}
    for key, value in given.items():
        name = str(key)
        if name in KEYS:
            ours[name] = value
        elif is_for_storage(name):
            options[name] = value
        else:
            raise ConfigError(
                name,
                value,
                f"the key is unknown; known are {_KNOWN}; and those of vLLM's own loader for the "
                "STORAGE_FORMAT in use, which can also be given together as STORAGE_CONFIG",
            )
    return ours, options


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in KEYS - UPSTREAM_ONLY - set(MESH_KEYS):
        value = environ.get(ENV_PREFIX + key)
        if value and not is_of_service(ENV_PREFIX + key, value):
            found[key] = value
    return found


def _read(path: object) -> dict[str, object]:
    """The object in `CONFIG_FILE`."""
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
