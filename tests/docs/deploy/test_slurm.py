"""The batch script and the list of nodes: their own text, with stubs for Slurm's commands and vLLM.

The members are real. They find each other by what Slurm tells a job, over loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.fastest import HANG_S
from tests.free_ports import free_port

from netmesh.seeds import ExecSeed, parse_seed

ROOT: Final = Path(__file__).parents[3]

SCRIPTS: Final = ROOT / "docs" / "deploy" / "slurm"

STUBS: Final = Path(__file__).with_name("stubs")


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where the stubs write what they were told."""
    (tmp_path / "told").mkdir()
    return tmp_path / "told"


def run(
    script: str, *arguments: str, home: Path, told: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    first = free_port(*range(1, 10))
    return subprocess.run(
        ["bash", SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        cwd=ROOT,
        env={
            "HOME": str(home),
            "PATH": f"{STUBS}:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "STUB_PYTHON": sys.executable,
            "STUB_TOLD": str(told),
            "SLURM_JOB_ID": "4711",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NODELIST": "localhost",
            "NETLOADER_PORT_RANGE": f"{first}-{first + 9}",
            **env,
        },
    )


def test_the_servers_of_a_job_find_each_other(tmp_path: Path, told: Path) -> None:
    done = run("vllm.sbatch", "/shared/llama", home=tmp_path, told=told, env={})
    assert done.returncode == 0, done.stderr
    seen = [(told / f"seen-{task}").read_text().split() for task in (0, 1)]
    assert (seen[0][0], len(seen[0])) == ("job-4711", 3)
    assert seen[0] == seen[1]

    started = [(told / f"vllm-{task}").read_text().splitlines() for task in (0, 1)]
    common = ["serve", "/shared/llama", "--load-format", "netloader", "--port"]
    assert started == [[*common, "8000"], [*common, "8001"]]
    assert (told / "srun").read_text().split() == ["--kill-on-bad-exit=0", "--wait=0"]

    key = tmp_path / ".netloader" / "mesh.key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(key.parent.iterdir()) == [key]


def test_a_key_that_is_there_stays(tmp_path: Path, told: Path) -> None:
    key = tmp_path / ".netloader" / "mesh.key"
    key.parent.mkdir()
    key.write_text("a key")
    run("vllm.sbatch", home=tmp_path, told=told, env={"SLURM_NTASKS": "0"})
    assert key.read_text() == "a key"


def test_a_job_may_bring_its_own_settings(tmp_path: Path, told: Path) -> None:
    given = {
        "NETLOADER_MESH_KEY_FILE": str(tmp_path / "elsewhere" / "key"),
        "NETLOADER_MESH_NAME": "chat",
        "PORT": "9000",
        "SLURM_NTASKS": "1",
    }
    done = run("vllm.sbatch", "m", "--max-model-len", "4096", home=tmp_path, told=told, env=given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "elsewhere" / "key").exists()
    assert not (tmp_path / ".netloader").exists()
    told_vllm = (told / "vllm-0").read_text().split()
    assert told_vllm[1:4] == ["m", "--max-model-len", "4096"]
    assert told_vllm[-1] == "9000"


def test_nodes_of_all_jobs_are_seeds(tmp_path: Path, told: Path) -> None:
    done = run("nodes-of-jobs", home=tmp_path, told=told, env={"SLURM_JOB_NAME": "chat"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gpu1", "gpu2", "gpu3"]
    assert "--name=chat" in (told / "squeue").read_text()
    assert parse_seed(f"exec:{SCRIPTS / 'nodes-of-jobs'}", 0) == ExecSeed(
        (str(SCRIPTS / "nodes-of-jobs"),)
    )


@pytest.mark.parametrize(
    "script", [*SCRIPTS.iterdir(), *STUBS.iterdir()], ids=lambda path: path.name
)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), script], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    assert os.access(script, os.X_OK)
