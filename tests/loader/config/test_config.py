"""What the settings of a worker mean, and what they mean for one of its ranks."""

from __future__ import annotations

import pytest
from tests.loader.config.loading import SOURCE, load

from netloader.config import Config
from netloader.errors import ConfigError
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netloader.terms import KeepMode
from netloader.weights.manifest import CHUNK_BYTES


def test_nothing_set_is_a_working_configuration() -> None:
    config = load()
    assert config.mesh
    assert config.sources_of(0) == ()
    assert config.port_of(0, draft=False) is None
    assert config.int8_cache is None


def test_upstreams_keys_mean_what_they_mean_there() -> None:
    config = load(
        SOURCE=SOURCE,
        MODEL="m",
        LISTEN_PORT=20000,
        INT8_CACHE="hbm",
        INT8_CACHE_NAME=["gate"],
        OUTPUT_PREFIX="/tmp/out_",
    )
    assert config.sources_of(0) == (("10.0.0.1:19374", "SOURCE"), ("[::1]:19375", "SOURCE"))
    assert config.sources_of(1) == ()
    assert config.model == "m"
    assert config.int8_cache is KeepMode.HBM
    assert config.int8_cache_name == ("gate",)
    assert config.output_prefix == "/tmp/out_"


@pytest.mark.parametrize(
    ("rank", "draft", "port"), [(0, False, 20000), (3, False, 20003), (3, True, 30003)]
)
def test_listen_port_is_the_base_for_rank_and_draft(rank: int, draft: bool, port: int) -> None:
    assert load(LISTEN_PORT=20000).port_of(rank, draft=draft) == port


@pytest.mark.parametrize(("rank", "draft"), [(1, False), (0, True)])
def test_port_that_leaves_the_range_is_an_error(rank: int, draft: bool) -> None:
    config = load(LISTEN_PORT=65535)
    with pytest.raises(ConfigError, match="must be at most 65535"):
        config.port_of(rank, draft=draft)


def test_transfer_settings_have_defaults_and_an_environment_variable_each() -> None:
    config = load()
    assert (config.pull_settings, config.source_settings) == (PullSettings(), SourceSettings())
    assert (config.rate_limit, config.chunk_bytes) == (None, CHUNK_BYTES)
    config = load(
        {
            "NETLOADER_TRANSFER_TIMEOUT": "3.5",
            "NETLOADER_MAX_SOURCES": "64",
            "NETLOADER_SOURCE_TIMEOUT": "0",
            "NETLOADER_MAX_SESSIONS": "1",
            "NETLOADER_RATE_LIMIT": "1000000",
            "NETLOADER_CHUNK_BYTES": "16777216",
            "NETLOADER_VERIFY": "off",
        }
    )
    assert config.pull_settings == PullSettings(
        timeout_s=3.5, max_sources=64, source_timeout_s=0, verify=False
    )
    assert config.source_settings == SourceSettings(timeout_s=3.5, max_sessions=1)
    assert (config.rate_limit, config.chunk_bytes) == (1_000_000, 16 << 20)


@pytest.mark.parametrize("written_as", ["dram", "DRAM"])
def test_int8_cache_may_be_written_in_capitals(written_as: str) -> None:
    assert load(INT8_CACHE=written_as).int8_cache is KeepMode.DRAM


def test_a_drafts_sources_are_upstreams_ports_higher() -> None:
    config = load(SOURCE=SOURCE)
    assert [endpoint for endpoint, _ in config.sources_of(0, draft=True)] == [
        "10.0.0.1:29374",
        "[::1]:29375",
    ]
    assert config.sources_of(1, draft=True) == ()


@pytest.mark.parametrize(
    "given", [["gloo", "tcp"], '["gloo", "tcp"]', "gloo,tcp", " gloo , tcp "], ids=str
)
def test_transports_are_a_list_also_in_the_environment(given: object) -> None:
    assert Config.load({"TRANSPORTS": given}, {}).transports == ("gloo", "tcp")
    if isinstance(given, str):
        assert Config.load({}, {"NETLOADER_TRANSPORTS": given}).transports == ("gloo", "tcp")
