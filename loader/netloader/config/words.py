"""What is allowed, in words: for errors, and for the pages that tests compare with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from netloader import bounds
from netloader.config.keys import FILE_SOURCE, field_of
from netloader.errors import ConfigError
from netloader.identity.identity import Evidence
from netloader.transport.registry import TRANSPORTS

_WORDS: Final = {
    "SOURCE": 'a list like [{"device_id": 0, "sources": ["10.0.0.1:19374"]}], each device_id once',
    "MODEL": "a name",
    "INT8_CACHE_NAME": "a list of non-empty strings",
    "OUTPUT_PREFIX": "the beginning of a path",
    "FABRIC": "a text of 1 to 64 characters",
    "TRANSPORTS": f"a list of {', '.join(TRANSPORTS)}, each once",
    "CONTENT": "a content id as a source prints it, like sample:1f0c... (kinds: "
    f"{', '.join(Evidence)})",
    "STORAGE_FORMAT": "a load format of vLLM other than netloader",
    "STORAGE_CONFIG": "a JSON object, handed to the loader of STORAGE_FORMAT",
    "METRICS_HOST": "an address of this host",
    "REPORT_PREFIX": "the beginning of a path",
}
"""Allowed values that the types of the fields do not tell."""

_NOTES: Final = {
    "LISTEN_PORT": " after the rank (and 10000 for a draft model) is added",
    "METRICS_PORT": " after the rank is added",
    "CHUNK_BYTES": ", the same on all peers",
}


def allowed(key: str) -> str:
    """The allowed values of a setting, in words; empty where only the validation can tell."""
    if key in _WORDS:
        return _WORDS[key]
    return bounds.allowed(*field_of(key)) + _NOTES.get(key, "")


def explain(error: ValidationError, given: Mapping[str, object]) -> ConfigError:
    """Turn the first of pydantic's complaints into ours."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    where = "".join(f"[{part!r}]" for part in first["loc"][1:])
    known = allowed("SOURCE" if key == FILE_SOURCE else key)
    if where and known:
        known = f"{known} (at {where}: {first['msg']})"
    return ConfigError(key, given.get(key), known or first["msg"])
