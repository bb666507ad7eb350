from pathlib import Path

import pytest

from netmesh.errors import ConfigError
from netmesh.settings import KEYS, MeshSettings


def test_nothing_set_is_fine() -> None:
    settings = MeshSettings.load({}, {})
    assert settings == MeshSettings()
    assert settings.seeds == ()
    assert settings.port is None


def test_operators_keys_win_over_the_environment() -> None:
    environ = {"NETLOADER_MESH_NAME": "env", "NETLOADER_MESH_PORT": "2000", "MESH_NAME": "no"}
    settings = MeshSettings.load({"MESH_NAME": "given", "OTHER": 1}, environ)
    assert (settings.name, settings.port) == ("given", 2000)


def test_every_key_can_come_from_the_environment() -> None:
    values = {
        "MESH_NAME": "n",
        "MESH_SEEDS": "a, b:5,[::1]:6,[fe80::1]",
        "MESH_PORT": "5000",
        "MESH_ADVERTISE": "10.0.0.1:5",
        "MESH_KEY": "k",
        "MESH_KEY_FILE": "/k",
        "MESH_INSECURE": "1",
        "MESH_DIRECTORY": "/d",
        "MESH_KUBERNETES_SERVICE": "s",
    }
    assert values.keys() == KEYS.keys()
    settings = MeshSettings.load({}, {f"NETLOADER_{key}": value for key, value in values.items()})
    assert settings.seeds == ("a", "b:5", "[::1]:6", "[fe80::1]")
    assert settings.insecure is True
    assert settings.key_file == Path("/k")
    assert settings.directory == Path("/d")


def test_seeds_as_json() -> None:
    settings = MeshSettings.load({}, {"NETLOADER_MESH_SEEDS": '["exec:ls a,b", "[::1]:5"]'})
    assert settings.seeds == ("exec:ls a,b", "[::1]:5")
    assert MeshSettings.load({"MESH_SEEDS": ["a", "b"]}, {}).seeds == ("a", "b")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MESH_NAME", "a b"),
        ("MESH_NAME", ""),
        ("MESH_NAME", "x" * 65),
        ("MESH_PORT", 80),
        ("MESH_PORT", 70000),
        ("MESH_PORT", "many"),
        ("MESH_SEEDS", ["a:b"]),
        ("MESH_SEEDS", "ftp://x"),
        ("MESH_SEEDS", 5),
        ("MESH_ADVERTISE", "a:b:"),
        ("MESH_INSECURE", "perhaps"),
    ],
)
def test_errors_name_key_and_value(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        MeshSettings.load({key: value}, {})
    assert caught.value.key == key
    assert key in str(caught.value)


def test_a_key_is_never_shown() -> None:
    settings = MeshSettings.load({"MESH_KEY": "hunter2"}, {})
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(ConfigError) as caught:
        MeshSettings.load({"MESH_KEY": ["hunter2"]}, {})
    assert "hunter2" not in str(caught.value)
