"""Which place a setting is taken from, and whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.loader.config.loading import NO_ENVIRONMENT, SOURCE, complaint, load, written

from netloader.config import Config
from netloader.errors import ConfigError
from netloader.identity.identity import Evidence


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


def test_variables_that_kubernetes_wrote_for_services_are_no_settings() -> None:
    """For Services called netloader, netloader-mesh and netloader-metrics."""
    service = "tcp://10.96.0.1:9000"
    names = ("PORT", "MESH_PORT", "METRICS_PORT", "MESH_PORT_9000_TCP")
    assert load({f"NETLOADER_{name}": service for name in names}) == load()

    with pytest.raises(ConfigError, match="METRICS_PORT"):
        load({"NETLOADER_METRICS_PORT": "banana"})
    with pytest.raises(ConfigError, match="METRICS_PORT"):
        load(METRICS_PORT=service)


def test_upstreams_keys_have_no_environment_variable() -> None:
    assert load({"NETLOADER_MODEL": "m"}).model is None


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
