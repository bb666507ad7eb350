"""The unit for bare hosts, and the settings that it reads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from netloader.config import Config
from netloader.config.variables import told
from netmesh.private import private_directory

UNIT: Final = Path(__file__).parents[3] / "docs" / "deploy" / "systemd" / "vllm@.service"

SPECIFIERS: Final = {"%d": "/run/credentials/vllm@chat.service", "%t": "/run", "%C": "/var/cache"}


def lines(key: str, text: str | None = None) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text() if text is None else text, re.MULTILINE)


def environment() -> dict[str, str]:
    """As systemd makes it: files win over `Environment=`."""
    found: dict[str, str] = {}
    for line in lines("Environment"):
        for specifier, value in SPECIFIERS.items():
            line = line.replace(specifier, value)
        name, _, value = line.partition("=")
        found[name] = value
    for name in ("mesh.env", "chat.env"):
        text = UNIT.with_name(name).read_text()
        found |= dict(line.split("=", 1) for line in text.splitlines() if line[:1] not in ("#", ""))
    return found


def verified(text: str, folder: Path) -> str:
    """What `systemd-analyze verify` has to say; a program that is there stands for vLLM."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    unit = folder / "vllm@chat.service"
    unit.write_text(text.replace("/opt/vllm/bin/vllm", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    return "".join(line for line in done.stderr.splitlines(True) if unit.name in line)


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    assert verified(UNIT.read_text(), tmp_path) == ""


def test_systemd_would_say_something(tmp_path: Path) -> None:
    assert "LoadCredentail" in verified(
        UNIT.read_text().replace("LoadCredential=", "LoadCredentail="), tmp_path
    )


def test_the_settings_are_settings() -> None:
    environ = environment()
    assert list(told(environ)) == []
    mesh = Config.load({}, environ).mesh_settings
    assert mesh.port_range is not None
    assert mesh.seeds == ("gpu-01", "gpu-02")


def test_the_key_is_the_credential() -> None:
    (credential,) = lines("LoadCredential")
    name, _, file = credential.partition(":")
    assert environment()["NETLOADER_MESH_KEY_FILE"] == f"{SPECIFIERS['%d']}/{name}"
    page = (UNIT.parents[2] / "howto" / "bare-hosts.md").read_text()
    assert f"mesh-inspect keygen > {file})" in page


def test_the_server_is_told_what_its_file_says() -> None:
    (command,) = lines("ExecStart")
    used = set(re.findall(r"\$(\w+)", command))
    own = UNIT.with_name("chat.env").read_text()
    assert used == set(re.findall(r"^(\w+)=", own, re.MULTILINE))
    assert "--load-format netloader" in command


def test_servers_of_a_host_may_meet_in_the_folder_that_systemd_makes(tmp_path: Path) -> None:
    (folder,), (mode,) = lines("RuntimeDirectory"), lines("RuntimeDirectoryMode")
    assert environment()["NETLOADER_MESH_DIRECTORY"] == f"{SPECIFIERS['%t']}/{folder}"
    (tmp_path / folder).mkdir(mode=int(mode, 8))
    with private_directory(tmp_path / folder, create=False, key="MESH_DIRECTORY"):
        pass
    # Otherwise the first server of a host that stops would take the folder of the others along.
    assert lines("RuntimeDirectoryPreserve") == ["yes"]


def test_requests_end_before_systemd_kills() -> None:
    (command,), (limit,) = lines("ExecStart"), lines("TimeoutStopSec")
    drain = re.search(r"--shutdown-timeout (\d+)", command)
    assert drain is not None and int(drain[1]) < int(limit)
    assert lines("KillMode") == ["mixed"]
