import os
from pathlib import Path

import pytest

from netmesh.errors import SettingsError
from netmesh.program import Program
from netmesh.settings import MESH_KEYS, WELL_KNOWN_PORT, MeshSettings, well_known_ports

CREW = Program(prefix="CREW_")


def test_nothing_set_is_fine() -> None:
    settings = MeshSettings.load({}, {})
    assert settings == MeshSettings()
    assert settings.seeds == ()
    assert settings.port is None


def test_operators_keys_win_over_the_environment() -> None:
    environ = {"CREW_MESH_NAME": "env", "CREW_MESH_PORT": "2000", "MESH_NAME": "no"}
    settings = MeshSettings.load({"MESH_NAME": "given", "OTHER": 1}, environ, CREW)
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
        "MESH_NETWORKS": "10.0.0.0/8, fd00::/8",
        "BIND": "[fd00::1]",
        "PORT_RANGE": "20000-20100",
    }
    assert values.keys() == MESH_KEYS.keys()
    settings = MeshSettings.load({}, {f"CREW_{key}": value for key, value in values.items()}, CREW)
    assert settings.seeds == ("a", "b:5", "[::1]:6", "[fe80::1]")
    assert settings.insecure is True
    assert settings.key_file == Path("/k")
    assert settings.directory == Path("/d")
    assert settings.bind == "fd00::1"
    assert str(settings.port_range) == "20000-20100"


def test_seeds_as_json() -> None:
    settings = MeshSettings.load({}, {"CREW_MESH_SEEDS": '["exec:ls a,b", "[::1]:5"]'}, CREW)
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
        ("MESH_PORT", 5000.5),
        ("MESH_SEEDS", ["a:b"]),
        ("MESH_SEEDS", "ftp://x"),
        ("MESH_SEEDS", 5),
        ("MESH_ADVERTISE", "a:b:"),
        ("MESH_INSECURE", "perhaps"),
        ("BIND", "node"),
        ("BIND", "10.0.0.1:5"),
        ("PORT_RANGE", "20000"),
        ("PORT_RANGE", "80-90"),
        ("PORT_RANGE", 20000),
        ("PORT_RANGE", [20000, 20100]),
        ("MESH_NETWORKS", "10.0.0.1/8"),
        ("MESH_NETWORKS", "10.0.0.0/33"),
        ("MESH_NETWORKS", "workers"),
        ("MESH_NETWORKS", 10),
        ("MESH_NETWORKS", [10]),
    ],
)
def test_errors_name_key_and_value(key: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        MeshSettings.load({key: value}, {})
    assert caught.value.key == key
    assert key in str(caught.value)


@pytest.mark.parametrize("key", MESH_KEYS)
def test_a_value_of_another_type_is_answered_in_an_operator_s_words(key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        MeshSettings.load({key: {"a": 1}}, {})
    assert caught.value.allowed.startswith("use ")


def test_networks_are_told_apart_from_addresses_in_them() -> None:
    with pytest.raises(SettingsError, match=r"10\.0\.0\.1/8 has host bits set"):
        MeshSettings.load({"MESH_NETWORKS": "10.0.0.1/8"}, {})
    made = MeshSettings.load({"MESH_NETWORKS": ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]}, {})
    assert [str(one) for one in made.networks] == ["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"]


def test_a_key_is_never_shown() -> None:
    settings = MeshSettings.load({"MESH_KEY": "hunter2"}, {})
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(SettingsError) as caught:
        MeshSettings.load({"MESH_KEY": ["hunter2"]}, {})
    assert "hunter2" not in str(caught.value)


def test_a_program_without_a_name_has_variables_without_a_prefix() -> None:
    assert MeshSettings.load({}, {"MESH_NAME": "bare"}).name == "bare"


def test_members_of_one_user_meet_in_one_place_unless_told_otherwise(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert MeshSettings().host_directory(environ) == tmp_path / f"netmesh-{os.geteuid()}"
    assert MeshSettings(directory=Path("/d")).host_directory(environ) == Path("/d")


def test_each_mesh_has_ports_of_its_own() -> None:
    assert well_known_ports("default")[0] == WELL_KNOWN_PORT == 17946
    firsts = {well_known_ports(f"job-{number}")[0] for number in range(1000)}
    assert firsts == set(range(17946, 17946 + 64))
    assert well_known_ports("job-1")[0] == 17996  # part of the protocol: never another one
    for name in ("default", "job-1"):
        first = well_known_ports(name)[0]
        assert well_known_ports(name) == (first, first + 1, first + 2, first + 3)
    assert MeshSettings(port=5000).well_known_ports == (5000,)
