"""Settings that do not go together stop the start."""

from __future__ import annotations

import pytest
from tests.loader.config.loading import complaint, load

from netloader.config import Config
from netloader.errors import ConfigError


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


KEY = {"MESH_KEY": "k" * 40}


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
