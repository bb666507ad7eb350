"""A pulled model equals a stored one in everything, and so does one whose pull was given up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.checkpoints import ARCHITECTURES
from tests.e2e.processes import isolated_environment, run_vllm

# Two minutes where nothing else runs: one process for all of them, five seconds each.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_SAME: dict[str, list[str]] = {"loaded": [], "tensors": [], "attributes": [], "registries": []}

_PROCESSED = ("deepseek-mla", "gptq-moe", "llama-w8a8")
"""Experts whose tensors are replaced, a set that post-processing reads, and weights behind a handle
of oneDNN. For others: `python -m tests.e2e.architectures FOLDER --processed NAME`."""

_CORRUPTED = ("llama:weight", "llama:attribute", "gptq-moe:set")

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(home: Path) -> Results:
    more = [f"--corrupt={pair}" for pair in _CORRUPTED]
    more += [f"--processed={name}" for name in _PROCESSED]
    status, output = run_vllm(
        "tests.e2e.architectures",
        *(str(home), *ARCHITECTURES, *more),
        env=isolated_environment(home),
        timeout_s=580,
    )
    found = [json.loads(line) for line in output.splitlines() if line.startswith('{"name"')]
    assert status == 0, output[-4000:]
    return {result["name"]: result for result in found}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pulled_model_equals_a_stored_one(results: Results, name: str) -> None:
    result = results[name]

    assert result["served"], result["not_a_source"]
    assert result["origins"][:2] == ["storage", "peers"]
    assert result["pulled"] == _SAME
    # Something was compared: thousands of attributes, all tensors.
    assert result["compared"]["attributes"] > 500
    assert result["compared"]["loaded"] >= 15


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pull_given_up_half_way_leaves_nothing_behind(results: Results, name: str) -> None:
    """Tensors, all state besides and vLLM's registries are those of a plain load."""
    result = results[name]

    assert result["origins"][2] == "storage"
    assert 0 < result["fetched_by_fallen"] < result["nbytes"]
    assert any("broken on purpose" in reason for reason in result["skipped"]), result["skipped"]
    assert result["fallen"] == _SAME


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_that_has_to_be_built_again_is_as_if_built_once(
    results: Results, name: str
) -> None:
    """After a pull that died inside a tensor which storage does not fill."""
    result = results[name]

    assert result["origins"][3] == "storage"
    assert "was half received from a peer that died" in result["skipped_by_rebuilt"][-1]
    assert result["rebuilt"] == _SAME


def test_which_expert_biases_a_checkpoint_had_travels(results: Results) -> None:
    """GPTQ's post-processing drops those that are not named in this set."""
    assert results["gptq-moe"]["travelled"] == [
        f"model.layers.{layer}.mlp.experts.routed_experts._loaded_expert_biases" for layer in (0, 1)
    ]
    assert not results["qwen2-moe"]["travelled"]


class TestFromASourceThatKeepsNothing:
    """Such a source has weights only as post-processing left them."""

    @pytest.mark.parametrize("name", ["deepseek-mla", "gptq-moe"])
    def test_its_replica_equals_a_stored_model_and_becomes_such_a_source(
        self, results: Results, name: str
    ) -> None:
        found = results[f"{name}:processed"]
        assert found["layouts"] == ["checkpoint", "runtime", "runtime", "runtime"]
        assert found["origins"] == ["storage", "peers", "peers", "storage"]
        for label in ("replica", "second"):
            # As loaded, nobody can tell: the names are others.
            assert {**found[label], "loaded": []} == _SAME

    def test_a_pull_given_up_half_way_builds_the_model_anew(self, results: Results) -> None:
        found = results["deepseek-mla:processed"]
        assert any("broken on purpose" in reason for reason in found["skipped"][2])
        assert {**found["fallen"], "loaded": []} == _SAME

    def test_weights_as_loaded_are_preferred(self, results: Results) -> None:
        assert results["deepseek-mla:processed"]["both_from"] == ["loaded"]

    def test_weights_that_no_tensor_shows_are_not_served(self, results: Results) -> None:
        found = results["llama-w8a8:processed"]
        assert "CPUDNNLGEMMHandler, which owns something outside Python" in found["not_a_source"]
        assert found["pulled"]["origin"] == "peers"


class TestComparisonOfCorruptedModels:
    """Whatever is made wrong on purpose is found, and nothing else."""

    def test_one_bit_of_a_weight(self, results: Results) -> None:
        found = results["llama:weight"]
        assert found["origin"] == "peers"
        assert len(found["pulled"]["tensors"]) == 1

    def test_attribute_of_an_object(self, results: Results) -> None:
        found = results["llama:attribute"]
        assert found["origin"] == "peers"
        assert found["pulled"] == _SAME | {
            "attributes": ["model.embed_tokens.quant_method.corrupted"]
        }

    def test_set_that_post_processing_reads(self, results: Results) -> None:
        found = results["gptq-moe:set"]
        assert found["origin"] == "peers"
        named = "model.layers.0.mlp.experts.routed_experts._loaded_expert_biases[]"
        assert named in found["pulled"]["attributes"]
        # And what comes of it: a bias that is gone.
        assert any("w13_bias" in name for name in found["pulled"]["tensors"])
