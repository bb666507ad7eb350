"""What an operator of the loader sees of the mesh: names that scripts and manifests depend on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netloader.config import Config
from netloader.program import PROGRAM
from netmesh import MeshSettings, SettingsError, user_directory


def test_settings_come_from_the_loaders_variables_only() -> None:
    environ = {"NETLOADER_MESH_NAME": "blue", "MESH_PORT": "2000"}
    settings = Config.load({}, environ).mesh_settings
    assert (settings.name, settings.port) == ("blue", None)


def test_every_config_speaks_as_the_loader() -> None:
    assert Config().mesh_settings.program is PROGRAM
    assert Config.load({}, {}).mesh_settings == MeshSettings(program=PROGRAM)


def test_the_names_that_deployments_depend_on() -> None:
    assert PROGRAM.prefix == "NETLOADER_"
    assert PROGRAM.service == "netloader-mesh"
    assert PROGRAM.host_variables == ("VLLM_HOST_IP", "POD_IP")


def test_members_and_evidence_are_where_they_were(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    here = Config().mesh_settings.host_directory(environ)
    assert here == tmp_path / f"netmesh-{os.geteuid()}"
    assert user_directory("netloader", environ) == tmp_path / f"netloader-{os.geteuid()}"


def test_who_needs_a_key_is_told_the_command() -> None:
    error = PROGRAM.needs_key("MESH_SEEDS", "10.0.0.1")
    assert isinstance(error, SettingsError)
    with pytest.raises(SettingsError, match="`mesh-inspect keygen`"):
        raise error
