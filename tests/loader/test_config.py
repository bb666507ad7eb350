from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from netloader.bounds import limits
from netloader.config import KEYS, Config, field_of
from netloader.errors import ConfigError
from netloader.identity.identity import Evidence
from netloader.program import PROGRAM
from netloader.replica.settings import PullSettings
from netloader.source.settings import SourceSettings
from netloader.terms import KeepMode
from netloader.weights.manifest import CHUNK_BYTES
from netmesh import MESH_KEYS

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
UPSTREAM = {
    "SOURCE",
    "MODEL",
    "LISTEN_PORT",
    "INT8_CACHE",
    "INT8_CACHE_NAME",
    "OUTPUT_PREFIX",
    "CONFIG_FILE",
}


def table(text: str, begin: str) -> dict[str, list[str]]:
    """The cells of each setting's row in the first table after `begin`."""
    rows = text[text.index(begin) :].split("\n| key ", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    found = {}
    for row in rows:
        cells = [
            cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")
        ]
        for key in cells[0].split(", "):
            found[key.strip("`")] = [key, *cells[1:]]
    return found


README = table((ROOT / "README.md").read_text(), "## Settings")
OPERATIONS_MESH = table(OPERATIONS, "## Settings")
OPERATIONS_SERVING = table(OPERATIONS, "## What serving may cost")


def number(shown: str) -> float | None:
    """The value of a cell that is a number: `4`, `32 MiB`."""
    match = re.fullmatch(r"`?([0-9.]+)`?( MiB)?", shown)
    return None if match is None else float(match[1]) * (1 << 20 if match[2] else 1)


def default_of(key: str) -> object:
    if key == "MESH_KUBERNETES_SERVICE":
        return PROGRAM.service
    return field_of(key)[1].get_default(call_default_factory=True)


def written_out(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


NO_ENVIRONMENT: dict[str, str] = {}
SOURCE = [{"device_id": 0, "sources": ["10.0.0.1:19374", "[::1]:19375"]}]


def load(environ: dict[str, str] | None = None, **extra: object) -> Config:
    return Config.load(extra, environ or NO_ENVIRONMENT)


def written(folder: Path, content: object) -> str:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def complaint(**extra: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.load(extra, NO_ENVIRONMENT)
    return caught.value


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


def test_source_of_the_config_file_is_tried_first(tmp_path: Path) -> None:
    path = written(tmp_path, {"SOURCE": [{"device_id": 0, "sources": ["10.0.0.9:1024"]}]})
    found = load(SOURCE=SOURCE, CONFIG_FILE=path).sources_of(0)
    assert [origin for _, origin in found] == ["SOURCE of CONFIG_FILE", "SOURCE", "SOURCE"]


def test_config_file_goes_over_extra_config_over_environment(tmp_path: Path) -> None:
    path = written(tmp_path, {"MODEL": "file", "TRANSFER_TIMEOUT": 1})
    environ = {"NETLOADER_TRANSFER_TIMEOUT": "3", "NETLOADER_DISCOVERY_TIMEOUT": "3"}
    config = load(environ, MODEL="extra", DISCOVERY_TIMEOUT=2, CONFIG_FILE=path)
    assert config.model == "file"
    assert config.pull_settings.timeout_s == config.source_settings.timeout_s == 1
    assert config.discovery_timeout_s == 2


def test_environment_reaches_loader_and_mesh() -> None:
    config = load(
        {"NETLOADER_MESH": "off", "NETLOADER_IDENTITY": "full", "NETLOADER_MESH_NAME": "blue"}
    )
    assert not config.mesh
    assert config.digest == "full"
    assert config.mesh_settings.name == "blue"


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


def test_upstreams_keys_have_no_environment_variable() -> None:
    assert load({"NETLOADER_MODEL": "m"}).model is None


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


@pytest.mark.parametrize(
    "key",
    ["SOURCES", "source", "CONFIG_FILE: SOURCE", "mesh settings", "pull settings", "pull_settings"],
)
def test_unknown_key_stops_the_start_and_lists_the_known_ones(key: str) -> None:
    error = complaint(**{key: SOURCE})
    assert error.key == key
    assert "INT8_CACHE_NAME" in error.allowed
    assert "MESH_SEEDS" in error.allowed


def test_extra_config_must_be_an_object() -> None:
    with pytest.raises(ConfigError, match="--model-loader-extra-config"):
        Config.load("SOURCE", NO_ENVIRONMENT)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ([1], "must hold a JSON object"),
        ({"CONFIG_FILE": "x"}, "may not name another"),
    ],
)
def test_config_file_that_is_unusable(tmp_path: Path, content: object, why: str) -> None:
    assert why in complaint(CONFIG_FILE=written(tmp_path, content)).allowed


def test_config_file_that_is_missing(tmp_path: Path) -> None:
    assert "cannot be read" in complaint(CONFIG_FILE=str(tmp_path / "none")).allowed


def test_bad_source_in_the_config_file_is_told_apart(tmp_path: Path) -> None:
    path = written(tmp_path, {"SOURCE": "10.0.0.1:1"})
    assert "CONFIG_FILE" in complaint(CONFIG_FILE=path).key


@pytest.mark.parametrize("written_as", ["dram", "DRAM"])
def test_int8_cache_may_be_written_in_capitals(written_as: str) -> None:
    assert load(INT8_CACHE=written_as).int8_cache is KeepMode.DRAM


class TestStorage:
    """Keys of vLLM's own loader are handed on, and nothing else is."""

    def load(self, **extra: object) -> Config:
        return Config.load(extra, NO_ENVIRONMENT, lambda key: key.startswith("num_"))

    def test_options_may_stand_beside_ours(self) -> None:
        config = self.load(num_threads=4, MODEL="m")
        assert (config.model, config.storage_extra_config) == ("m", {"num_threads": 4})

    def test_options_may_be_given_together_and_those_beside_ours_win(self) -> None:
        config = self.load(STORAGE_CONFIG={"a": 1, "num_x": 1}, num_x=2)
        assert config.storage_extra_config == {"a": 1, "num_x": 2}

    def test_options_may_be_in_the_config_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, {"num_threads": 4, "STORAGE_FORMAT": "safetensors"})
        config = self.load(CONFIG_FILE=path)
        assert config.storage_format == "safetensors"
        assert config.storage_extra_config == {"num_threads": 4}

    def test_what_nobody_knows_stops_the_start_and_says_how_options_are_given(self) -> None:
        with pytest.raises(ConfigError) as caught:
            self.load(MODLE="m")
        assert caught.value.key == "MODLE"
        assert "STORAGE_CONFIG" in caught.value.allowed
        assert "MODEL," in caught.value.allowed

    def test_environment(self) -> None:
        config = load(
            {
                "NETLOADER_STORAGE_FORMAT": "pt",
                "NETLOADER_STORAGE_CONFIG": '{"num_threads": 2}',
                "NETLOADER_CONTENT": "sample:ab",
            }
        )
        assert (config.storage_format, config.storage_extra_config) == ("pt", {"num_threads": 2})
        assert config.content_demanded == {Evidence.SAMPLE: "ab"}

    @pytest.mark.parametrize("value", ["{", "[1]", 3, ["a"]])
    def test_bad_options(self, value: object) -> None:
        assert complaint(STORAGE_CONFIG=value).key == "STORAGE_CONFIG"


@pytest.mark.parametrize("value", ["", "1f0c", "sample:", "sha256:ab", "sample:a b", 7])
def test_content_id_is_a_kind_and_a_value(value: object) -> None:
    error = complaint(CONTENT=value)
    assert error.key == "CONTENT"
    assert "sample" in error.allowed


def test_a_drafts_sources_are_upstreams_ports_higher() -> None:
    config = load(SOURCE=SOURCE)
    assert [endpoint for endpoint, _ in config.sources_of(0, draft=True)] == [
        "10.0.0.1:29374",
        "[::1]:29375",
    ]
    assert config.sources_of(1, draft=True) == ()


class TestUpstream:
    """Transfers that go around the key are allowed in as many words, or not at all."""

    def test_they_are_off_unless_set(self) -> None:
        use = load().upstream
        assert not use.serves and not use.pulls

    @pytest.mark.parametrize(
        ("value", "serves", "pulls"),
        [
            ("off", False, False),
            ("serve", True, False),
            ("PULL", False, True),
            ("both", True, True),
        ],
    )
    def test_each_way_is_allowed_by_itself(self, value: str, serves: bool, pulls: bool) -> None:
        use = load(UPSTREAM=value).upstream
        assert (use.serves, use.pulls) == (serves, pulls)

    def test_the_environment_may_set_them(self) -> None:
        assert load({"NETLOADER_UPSTREAM": "pull"}).upstream.pulls

    @pytest.mark.parametrize("value", [True, "yes", "", 1])
    def test_no_other_word_will_do(self, value: object) -> None:
        assert complaint(UPSTREAM=value).allowed == "one of off, serve, pull, both"

    @pytest.mark.parametrize(
        "key", [{"MESH_KEY": "0f" * 32}, {"MESH_KEY_FILE": "/keys/mesh.key"}], ids=["key", "file"]
    )
    @pytest.mark.parametrize("value", ["serve", "pull", "both"])
    def test_a_key_needs_a_second_word(self, key: dict[str, str], value: str) -> None:
        error = complaint(UPSTREAM=value, **key)
        assert error.key == "UPSTREAM"
        assert "UPSTREAM_INSECURE" in error.allowed
        assert load(UPSTREAM=value, UPSTREAM_INSECURE=True, **key).upstream == value
        assert load(UPSTREAM="off", **key).has_key


class TestDocuments:
    """The tables that operators read say what the settings are."""

    def test_every_setting_is_in_the_readmes_table_and_nothing_else(self) -> None:
        assert sorted(README) == sorted(KEYS)

    def test_the_readme_marks_the_settings_that_the_environment_may_hold(self) -> None:
        marked = {key for key, cells in README.items() if cells[1] == "\N{BLACK CIRCLE}"}
        assert marked == KEYS - UPSTREAM

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_readme_has_the_default(self, key: str) -> None:
        shown, default = README[key][3], default_of(key)
        if default in (None, (), {}):
            # What happens without one is told in words, which is no value.
            assert number(shown) is None and shown.strip("`") not in ("true", "false")
            return
        assert shown.strip("`").split(" ")[0] == written_out(default)

    @pytest.mark.parametrize("key", sorted(KEYS - {"CONFIG_FILE"}))
    def test_the_readme_has_the_bounds_of_each_number(self, key: str) -> None:
        assert limits(field_of(key)[1]) in README[key][2]

    def test_every_setting_of_the_mesh_is_on_the_operations_page(self) -> None:
        assert sorted(OPERATIONS_MESH) == sorted(MESH_KEYS)

    def test_the_operations_page_names_no_setting_that_is_none(self) -> None:
        named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", OPERATIONS))
        ours = {name for name in named if name.startswith(("MESH_", "MAX_", "RATE_", "CHUNK_"))}
        assert ours <= KEYS

    @pytest.mark.parametrize("key", [*OPERATIONS_MESH, *OPERATIONS_SERVING])
    def test_the_operations_page_has_the_default(self, key: str) -> None:
        shown = (OPERATIONS_MESH | OPERATIONS_SERVING)[key][1]
        default = default_of(key)
        if isinstance(default, bool):
            assert shown == ("on" if default else "off")
        elif isinstance(default, (int, float)):
            assert number(shown) == default
        elif isinstance(default, str):
            assert shown == f"`{default}`"
        else:
            assert number(shown) is None

    @pytest.mark.parametrize("key", [*OPERATIONS_MESH, *OPERATIONS_SERVING])
    def test_the_operations_page_has_the_bounds_of_each_number(self, key: str) -> None:
        assert limits(field_of(key)[1]) in (OPERATIONS_MESH | OPERATIONS_SERVING)[key][2]

    def test_a_bound_that_is_not_in_the_table_would_be_noticed(self) -> None:
        assert limits(field_of("MAX_SOURCES")[1]) == "1..64"
        assert "1..64" not in README["SOURCE_TIMEOUT"][2]

    def test_both_ends_of_a_pull_have_the_same_timeout(self) -> None:
        ends = (PullSettings, SourceSettings)
        pull, source = (part.__pydantic_fields__["timeout_s"] for part in ends)
        assert (pull.default, limits(pull)) == (source.default, limits(source))


KEY = {"MESH_KEY": "k" * 40}


@pytest.mark.parametrize(
    "given", [["gloo", "tcp"], '["gloo", "tcp"]', "gloo,tcp", " gloo , tcp "], ids=str
)
def test_transports_are_a_list_also_in_the_environment(given: object) -> None:
    assert Config.load({"TRANSPORTS": given}, {}).transports == ("gloo", "tcp")
    if isinstance(given, str):
        assert Config.load({}, {"NETLOADER_TRANSPORTS": given}).transports == ("gloo", "tcp")


def test_weights_are_encrypted_only_with_a_cluster_key() -> None:
    with pytest.raises(ConfigError, match=r"TRANSPORTS='tcp,tcp-sealed'.*set MESH_KEY_FILE"):
        Config.load({"TRANSPORTS": ["tcp", "tcp-sealed"]}, {})
    assert Config.load({"TRANSPORTS": ["tcp-sealed"]} | KEY, {}).transports == ("tcp-sealed",)


@pytest.mark.parametrize("names", ["gloo", "tcp,nccl"])
def test_a_transport_whose_ports_cannot_be_bounded_does_not_go_with_a_range(names: str) -> None:
    with pytest.raises(ConfigError, match=r"TRANSPORTS='.*opens ports that PORT_RANGE"):
        Config.load({"TRANSPORTS": names, "PORT_RANGE": "20000-20100"}, {})
    Config.load({"TRANSPORTS": "hccl,tcp", "PORT_RANGE": "20000-20100"}, {})


def test_a_published_port_stands_for_one_that_was_set() -> None:
    config = Config.load({"LISTEN_PORT": 7000, "LISTEN_ADVERTISE": 17000}, {})
    assert config.public_port_of(3, draft=False) == 17_003
    assert config.public_port_of(3, draft=True) == 27_003
    assert Config.load({"LISTEN_PORT": 7000}, {}).public_port_of(3, draft=False) is None
    with pytest.raises(ConfigError, match="it needs LISTEN_PORT"):
        Config.load({"LISTEN_ADVERTISE": 17000}, {})
    with pytest.raises(ConfigError, match="65539 must be at most 65535"):
        Config.load({"LISTEN_PORT": 7000, "LISTEN_ADVERTISE": 65_535}, {}).public_port_of(
            4, draft=False
        )
