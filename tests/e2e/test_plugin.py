"""Registration with a real vLLM, in processes of their own: it is global there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.processes import isolated_environment, run_vllm

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

_THEIRS = "import vllm_ascend.model_loader.netloader.netloader\n"
_OURS = "from netloader.engine.plugin import register\nregister()\nregister()\n"
_USE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
print("before:", "netloader.engine.loader" in sys.modules)
for _ in range(2):
    loader = get_model_loader(LoadConfig(load_format="netloader"))
    print("used:", type(loader).__module__, type(loader).__name__)
print("auto:", type(get_model_loader(LoadConfig(load_format="auto"))).__name__)
"""


@pytest.mark.parametrize("script", [_OURS + _THEIRS, _THEIRS + _OURS], ids=["ours", "theirs"])
def test_the_name_means_this_package_whoever_registers_first(home: Path, script: str) -> None:
    path = Path(__file__).parent / "fake_ascend"
    output = run(home, script + _USE, {"PYTHONPATH": str(path)})
    lines = output.splitlines()
    assert "before: False" in lines
    assert lines.count("used: netloader.engine.loader NetLoader") == 2
    assert "auto: DefaultModelLoader" in lines
    assert "overwritten" not in output
    (said,) = [line for line in lines if "VLLM_PLUGINS" in line]
    assert "FakeAscendNetLoader" in said and "leave netloader_mesh out" in said


def test_an_allow_list_of_plugins_decides_as_the_readme_says(home: Path) -> None:
    script = "from vllm.plugins import load_general_plugins\nload_general_plugins()\n" + _USE
    listed = "lora_filesystem_resolver,netloader_mesh"
    assert "used: netloader.engine.loader NetLoader" in run(home, script, {"VLLM_PLUGINS": listed})

    others = {"VLLM_PLUGINS": "lora_filesystem_resolver"}
    error = "Load format `netloader` is not supported"
    assert f"ValueError: {error}" in run(home, script, others, fails=True)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f'"{error}"' in readme and "`VLLM_PLUGINS`" in readme


def test_vllm_copies_our_settings_to_workers_that_ray_starts(home: Path) -> None:
    """Both executors for Ray: the newer one copies all but what is named to it."""
    script = "from vllm.ray.ray_env import get_env_vars_to_copy\n"
    script += "from vllm.v1.executor.ray_env_utils import get_driver_env_vars\n"
    script += "print(*get_env_vars_to_copy())\nprint(*get_driver_env_vars(set()))\n"
    ours = {"NETLOADER_MESH_SEEDS": "10.0.0.1", "NETLOADER_MESH_ADVERTISE": "10.0.0.2"}
    older, newer = run(home, _OURS + script, ours).splitlines()[-2:]
    for copied in (older.split(), newer.split()):
        assert "NETLOADER_MESH_SEEDS" in copied
        assert "NETLOADER_MESH_ADVERTISE" not in copied


def test_a_variable_that_is_no_setting_costs_one_warning(home: Path) -> None:
    """Those of Kubernetes, and a misspelt one. An operator's nonsense is an error."""
    services = {
        "NETLOADER_MESH_PORT": "tcp://10.96.0.1:17946",
        "NETLOADER_MESH_SERVICE_HOST": "10.96.0.1",
        "NETLOADER_MESH_SERVICE_PORT": "17946",
        "NETLOADER_MESH_PORT_17946_TCP": "tcp://10.96.0.1:17946",
        "NETLOADER_METRICS_PORT": "tcp://[fd00::1]:9000",
    }
    misspelt = {"NETLOADER_MESH_SEDS": "node0"}
    lines = run(home, _OURS + _USE, services | misspelt).splitlines()
    assert lines.count("used: netloader.engine.loader NetLoader") == 2
    for name in ("NETLOADER_MESH_PORT", "NETLOADER_METRICS_PORT"):
        (said,) = [line for line in lines if f"{name}={services[name]} is ignored" in line]
        assert "WARNING" in said and "--model-loader-extra-config" in said
    assert len([line for line in lines if "did you mean NETLOADER_MESH_SEEDS?" in line]) == 1

    refused = run(home, _OURS + _USE, {"NETLOADER_MESH_PORT": "banana"}, fails=True)
    assert "MESH_PORT='banana'" in refused


def run(home: Path, script: str, env: dict[str, str], *, fails: bool = False) -> str:
    """What a script writes in a process of its own."""
    file = home / "script.py"
    file.write_text(script)
    environment = isolated_environment(home) | env
    status, output = run_vllm("tests.e2e.script", str(file), env=environment, timeout_s=400)
    assert (status != 0) == fails, output
    return output
