"""A notebook: one model after the other and several at once, each under settings of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import isolated_environment, run_vllm

# Four engines, one after the other.
pytestmark = [pytest.mark.e2e, pytest.mark.soak, pytest.mark.timeout(900)]


def test_each_model_is_a_member_while_it_lives_and_serves_its_own_bytes(
    checkpoints: Path, home: Path
) -> None:
    environment = isolated_environment(home) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    models = (str(checkpoints / name) for name in ("one", "two"))
    status, output = run_vllm("tests.e2e.notebook", *models, env=environment, timeout_s=800)
    assert status == 0, output
    (told,) = [json.loads(line) for line in output.splitlines() if line.startswith('{"first"')]

    first, second, third, fourth = (told[name] for name in ("first", "second", "third", "fourth"))
    assert told["alpha"] == [first["endpoint"]]
    assert told["beta"] == sorted(one["endpoint"] for one in (second, third, fourth))
    assert [one["origin"] for one in (first, second, third)] == ["storage"] * 3
    assert [one["endpoint"] for one in fourth["deliveries"]] == [second["endpoint"]]
    assert fourth["tensors"] == second["tensors"] != third["tensors"] == first["tensors"]
    assert fourth["tokens"] == second["tokens"] != third["tokens"] == first["tokens"]
    assert told["at once"] == [one["tokens"] for one in (second, third, fourth)]
