"""`register` costs nothing, stops nobody, and takes the name whichever plugin comes first."""

from __future__ import annotations

import sys
import tomllib
from itertools import permutations
from pathlib import Path

import pytest
from tests.loader.engine.stand_in import RAY, TABLE, UPSTREAM, installed, run

ROOT = Path(__file__).parents[3]

REGISTER = "from netloader.engine.plugin import register; register()"
THEIRS = "import vllm_ascend.model_loader.netloader.netloader"
THE_TABLE = "import vllm.model_executor.model_loader"
WHO = """
import logging
from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER
loader = _LOAD_FORMAT_TO_MODEL_LOADER.get("netloader")
print("registered:", loader and loader.__module__)
"""
USE = """
import logging
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
try:
    for _ in range(2):
        print("made:", type(get_model_loader(LoadConfig())).__name__)
except Exception as error:
    print("raised:", type(error).__name__, error)
"""


def test_register_imports_next_to_nothing(tmp_path: Path) -> None:
    script = f"import sys; before = set(sys.modules); {REGISTER}; print(*set(sys.modules) - before)"
    out, _ = run(installed(tmp_path), script)
    loaded = set(out.split())
    foreign = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign == {
        "netloader",
        "netloader.engine",
        "netloader.engine.imports",
        "netloader.engine.plugin",
        "netloader.engine.ray",
        "netloader.system",
        "netloader.system.affinity",
        "netloader.system.threads",
    }


def test_a_process_that_uses_another_format_never_imports_the_loader(tmp_path: Path) -> None:
    script = f"{REGISTER}; {THE_TABLE}; import sys; print(*sys.modules)"
    loaded = set(run(installed(tmp_path), script)[0].split())
    assert "netloader.engine.entry" in loaded
    assert not loaded & {"torch", "zmq", "pydantic", "netloader.engine.loader", "netloader.config"}


@pytest.mark.parametrize("order", [*permutations([REGISTER, THEIRS, THE_TABLE])])
def test_the_name_is_ours_in_every_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    out, _ = run(installed(tmp_path), "\n".join([*order, REGISTER, WHO]))
    assert out == "registered: netloader.engine.entry\n"


@pytest.mark.parametrize("order", [[REGISTER, THEIRS], [THEIRS, REGISTER]], ids=["ours", "theirs"])
def test_who_displaced_whom_is_said_once_with_the_way_back(
    tmp_path: Path, order: list[str]
) -> None:
    # The version is one that ours refuses, so that nothing of the real vLLM is needed.
    folder = installed(tmp_path, {"vllm/version.py": "__version__ = '0.17.1'"})
    out, err = run(folder, "\n".join([*order, USE]))
    assert out == "made: Upstreams\nmade: Upstreams\n"
    (line,) = [line for line in err.splitlines() if "netloader" in line]
    assert "this is vLLM 0.17.1" in line and "vllm_ascend.model_loader" in line


def test_an_unsupported_version_is_refused_when_the_format_is_used(tmp_path: Path) -> None:
    folder = installed(tmp_path, {"vllm/version.py": "__version__ = '0.17.1'"})
    assert run(folder, f"{REGISTER}\n{WHO}")[0] == "registered: netloader.engine.entry\n"
    out, _ = run(folder, f"{REGISTER}\n{USE}\nimport sys; print('netloader.config' in sys.modules)")
    assert out.startswith("raised: UnsupportedError netloader-mesh works with vLLM 0.18 to 0.33")
    assert out.endswith("\nFalse\n"), "nothing may be touched before"


def test_a_version_that_lacks_what_we_use_is_refused_in_words(tmp_path: Path) -> None:
    """The stand-in lacks nearly everything."""
    out, _ = run(installed(tmp_path), f"{REGISTER}\n{USE}")
    assert out.startswith("raised: UnsupportedError ")
    assert "this is vLLM 0.32.0" in out and "cannot import name 'ModelConfig'" in out


BROKEN = {
    "no table": (TABLE, "raise RuntimeError('vLLM is broken')"),
    "another table": (TABLE, "def register_model_loader(name): raise KeyError(name)"),
    "no base class": ("vllm/model_executor/model_loader/base_loader.py", "LATER = 1"),
    "upstream raises": (UPSTREAM, "raise OSError('libascendcl.so')"),
}


THE_RAY = "from vllm.ray import ray_env"


@pytest.mark.parametrize(
    "order", [[REGISTER, THE_RAY], [THE_RAY, REGISTER]], ids=["ours", "theirs"]
)
def test_what_is_true_of_one_host_stays_there_under_ray(tmp_path: Path, order: list[str]) -> None:
    shown = "print(*sorted(ray_env.RAY_NON_CARRY_OVER_ENV_VARS))"
    out, _ = run(installed(tmp_path), "\n".join([*order, REGISTER, shown]))
    assert out.split() == [
        "NETLOADER_BIND",
        "NETLOADER_MESH_ADVERTISE",
        "NETLOADER_METRICS_HOST",
        "THEIRS",
    ]


def test_a_vllm_that_copies_in_another_way_is_left_alone(tmp_path: Path) -> None:
    out, err = run(installed(tmp_path, {RAY: "OTHERS = 1"}), f"{REGISTER}\n{THE_RAY}\nprint('on')")
    assert out == "on\n"
    assert "workers that Ray starts may get settings of this host (NETLOADER_BIND, " in err


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_that_is_broken_reaches_who_calls_us(tmp_path: Path, case: str) -> None:
    """What an import raises without us it raises with us, and nothing else."""
    file, text = BROKEN[case]
    folder = installed(tmp_path, {file: text})
    body = """
def what(module):
    try:
        __import__(module)
    except Exception as error:
        return repr(error)
print(what("vllm.model_executor.model_loader"))
print(what("vllm_ascend.model_loader.netloader.netloader"))
"""
    with_us, err = run(folder, f"{REGISTER}\n{body}\n{REGISTER}")
    without_us, _ = run(folder, body)
    assert with_us == without_us
    assert ("not available in this process" in err) == (case == "another table")


def test_an_import_error_of_upstream_leaves_the_name_ours(tmp_path: Path) -> None:
    folder = installed(tmp_path, {UPSTREAM: "raise OSError('libascendcl.so')"})
    theirs = f"try:\n    {THEIRS}\nexcept OSError:\n    print('no library')"
    out, _ = run(folder, f"{REGISTER}\n{THE_TABLE}\n{theirs}\n{WHO}")
    assert out == "no library\nregistered: netloader.engine.entry\n"


def test_log_lines_go_where_vllms_go_once_even_if_that_is_set_up_later(tmp_path: Path) -> None:
    script = f"""
import logging
import netloader.system.affinity
{REGISTER}
handler = logging.StreamHandler()
logging.getLogger("vllm").addHandler(handler)
logging.getLogger("vllm").setLevel("INFO")
logging.getLogger("vllm").propagate = False
for name in ("netloader.worker.process", "netmesh.mesh"):
    logging.getLogger(name).info("seen %s", name)
    logging.getLogger(name).debug("not seen")
"""
    _, err = run(installed(tmp_path), script)
    assert err == "seen netloader.worker.process\nseen netmesh.mesh\n"


def test_the_documents_name_the_plugin_as_vllm_knows_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = project["entry-points"]["vllm.general_plugins"]
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    entry = (ROOT / "loader/netloader/engine/entry.py").read_text()
    assert f"leave {name} out of VLLM_PLUGINS" in entry
