"""Who holds the cluster key finds a source and pulls from it; nobody else does. Real processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.fastest import HANG_S
from tests.forked import ForkedProcess, start_loader
from tests.meshes import OWN_MESH

from netmesh import generate_key

Start = Callable[..., ForkedProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers that meet in one folder, with the key in a file or none."""
    with ExitStack() as stack:

        def one(key: str | None, *words: str) -> ForkedProcess:
            settings = {
                "MESH_NAME": OWN_MESH,
                "MESH_DIRECTORY": str(tmp_path / "mesh"),
                "MESH_ADVERTISE": "127.0.0.1",
            }
            if key is not None:
                file = tmp_path / f"{abs(hash(key))}.key"
                file.write_text(key)
                file.chmod(0o600)
                settings["MESH_KEY_FILE"] = str(file)
            process = stack.enter_context(
                start_loader("tests.loader.key_process", json.dumps(settings), *words)
            )
            stack.callback(process.kill)
            return process

        yield one


def said(process: ForkedProcess) -> dict[str, Any]:
    process.stdin.close()
    answer = json.loads(process.stdout.readline())
    assert isinstance(answer, dict)
    return answer


def test_only_the_key_finds_a_source_and_opens_it(start: Start) -> None:
    key, other = generate_key(), generate_key()
    source = start(key, "source")
    endpoint = source.stdout.readline().strip()
    member = start(key, "replica", endpoint, str(HANG_S))
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
