"""An error names the key and the value, and says what is allowed."""

from __future__ import annotations

import pytest
from tests.loader.config.loading import complaint


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("MAX_SOURCES", "an integer, 1..64"),
        ("SOURCE_TIMEOUT", "seconds, 0..3600"),
        ("TRANSFER_TIMEOUT", "seconds, more than 0, at most 3600"),
        ("DISCOVERY_TIMEOUT", "seconds, 0..600"),
        (
            "LISTEN_PORT",
            "an integer, 1024..65535 after the rank (and 10000 for a draft model) is added",
        ),
        ("INT8_CACHE", "one of hbm, dram, no"),
        ("IDENTITY", "sample or full"),
        ("MAX_SESSIONS", "an integer, 1..64"),
        ("RATE_LIMIT", "bytes per second, an integer, at least 1000000"),
        ("CHUNK_BYTES", "bytes, a multiple of 4096 in 1048576..67108864, the same on all peers"),
        ("VERIFY", "true or false"),
    ],
)
def test_bad_transfer_setting_says_what_is_allowed(key: str, allowed: str) -> None:
    assert complaint(**{key: "much"}).allowed == allowed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOURCE", "10.0.0.1:1"),
        ("SOURCE", [{"device_id": -1, "sources": []}]),
        ("SOURCE", [{"device_id": 0, "sources": ["no-port"]}]),
        ("SOURCE", [{"device_id": 0, "sources": ["10.0.0.1:99999"]}]),
        ("SOURCE", [{"device_id": 0, "sources": ["10.0.0.1:0"]}]),
        ("SOURCE", [{"device_id": 0, "sources": [], "more": 1}]),
        ("SOURCE", [{"device_id": 0, "sources": []}, {"device_id": 0, "sources": []}]),
        ("MODEL", ""),
        ("LISTEN_PORT", 1023),
        ("LISTEN_PORT", 65536),
        ("LISTEN_PORT", "auto"),
        ("LISTEN_PORT", True),
        ("INT8_CACHE", "disk"),
        ("INT8_CACHE_NAME", "gate"),
        ("INT8_CACHE_NAME", [""]),
        ("OUTPUT_PREFIX", 5),
        ("MESH", "perhaps"),
        ("MESH_PORT", 80),
        ("IDENTITY", "header"),
        ("TRANSFER_TIMEOUT", 0),
        ("TRANSFER_TIMEOUT", "nan"),
        ("TRANSFER_TIMEOUT", 3601),
        ("TRANSFER_TIMEOUT", True),
        ("DISCOVERY_TIMEOUT", -1),
        ("MAX_SOURCES", 0),
        ("MAX_SOURCES", 65),
        ("MAX_SOURCES", True),
        ("MAX_SOURCES", 1.5),
        ("SOURCE_TIMEOUT", -1),
        ("SOURCE_TIMEOUT", 3601),
        ("SOURCE_TIMEOUT", "nan"),
        ("MAX_SESSIONS", 0),
        ("MAX_SESSIONS", 65),
        ("RATE_LIMIT", 999_999),
        ("RATE_LIMIT", True),
        ("RATE_LIMIT", "1 GB"),
        ("TRANSPORTS", []),
        ("TRANSPORTS", "tcp,tcp"),
        ("TRANSPORTS", "tcp,pigeon"),
        ("TRANSPORTS", 5),
        ("CHUNK_BYTES", (1 << 20) - 4096),
        ("CHUNK_BYTES", (64 << 20) + 4096),
        ("CHUNK_BYTES", (1 << 20) + 1),
        ("VERIFY", "perhaps"),
        ("CONFIG_FILE", 5),
    ],
)
def test_bad_value_stops_the_start_naming_key_and_value(key: str, value: object) -> None:
    error = complaint(**{key: value})
    assert error.key == key
    assert error.value == value
    assert error.allowed
    assert str(error).startswith(f"{key}={value!r} is not valid: ")


@pytest.mark.parametrize("value", ["", "1f0c", "sample:", "sha256:ab", "sample:a b", 7])
def test_content_id_is_a_kind_and_a_value(value: object) -> None:
    error = complaint(CONTENT=value)
    assert error.key == "CONTENT"
    assert "sample" in error.allowed
