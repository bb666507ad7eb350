"""A pulled model equals a stored one in everything, and so does one whose pull was given up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import isolated_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMES = ("llama-tied", "qwen2-moe", "deepseek-mla")
"""Tied embeddings, fused experts, and derived weights: what goes wrong, goes wrong here. vLLM needs
ten seconds to look into each architecture; `python -m tests.e2e.architectures FOLDER` runs all."""

_SAME: dict[str, list[str]] = {"tensors": [], "attributes": [], "registries": []}


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.e2e.architectures", str(home), *NAMES],
        env=isolated_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    found = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"name"')]
    assert run.returncode == 0, run.stdout[-4000:]
    return {result["name"]: result for result in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_pulled_model_equals_a_stored_one(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]

    assert result["served"]
    assert result["origins"][:2] == ["storage", "peers"]
    assert result["pulled"] == _SAME


@pytest.mark.parametrize("name", NAMES)
def test_a_pull_given_up_half_way_leaves_nothing_behind(
    results: dict[str, dict[str, Any]], name: str
) -> None:
    """Tensors, module attributes and vLLM's registries are those of a plain load."""
    result = results[name]

    assert result["origins"][2] == "storage"
    assert 0 < result["fetched_by_fallen"] < result["nbytes"]
    assert "broken on purpose" in result["skipped"][-2]
    assert result["fallen"] == _SAME


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_has_to_be_built_again_is_as_if_built_once(
    results: dict[str, dict[str, Any]], name: str
) -> None:
    """After a pull that died inside a tensor which storage does not fill."""
    result = results[name]

    assert result["origins"][3] == "storage"
    assert result["skipped_by_rebuilt"][-1] == "found on purpose"
    assert result["rebuilt"] == _SAME
