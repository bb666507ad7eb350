"""Who holds the cluster key finds a source and pulls from it; nobody else does. Real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from netmesh import generate_key

ROOT = Path(__file__).parents[3]

Start = Callable[..., subprocess.Popen[str]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
"""Four processes that import torch: seconds, one after another on a small machine."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers that meet in one folder, with the key in a file or none."""
    with ExitStack() as stack:

        def one(key: str | None, *words: str) -> subprocess.Popen[str]:
            settings = {"MESH_DIRECTORY": str(tmp_path / "mesh"), "MESH_ADVERTISE": "127.0.0.1"}
            if key is not None:
                file = tmp_path / f"{abs(hash(key))}.key"
                file.write_text(key)
                file.chmod(0o600)
                settings["MESH_KEY_FILE"] = str(file)
            env = {name: text for name, text in os.environ.items() if "NETLOADER" not in name}
            process = stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.loader.key_process",
                        json.dumps(settings),
                        *words,
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=ROOT,
                    env=env | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield one


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=60)
    answer = json.loads(out)
    assert isinstance(answer, dict)
    return answer


def test_only_the_key_finds_a_source_and_opens_it(start: Start) -> None:
    key, other = generate_key(), generate_key()
    source = start(key, "source")
    assert source.stdout is not None
    endpoint = source.stdout.readline().strip()
    member = start(key, "replica", endpoint, "10")
    stranger, keyless = (start(wrong, "replica", endpoint, "3") for wrong in (other, None))
    assert said(member) == {"others": 1, "skipped": [], "found": "pulled", "direct": "pulled"}
    for outsider, why in (
        (said(stranger), "did not accept this worker's cluster key (tried 1)"),
        (said(keyless), "asks for a cluster key, and this worker has none"),
    ):
        assert outsider["others"] == 0
        assert outsider["found"] is None
        assert outsider["direct"].startswith(why)
        assert outsider["skipped"][-1] == "mesh: nobody else holds toy (target)"
    assert source.poll() is None
