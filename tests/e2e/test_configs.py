"""Settings that no weight depends on, and settings that count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.folders import configured
from tests.e2e.hosts import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestConfigSaysNothingAboutWeights:
    @pytest.mark.parametrize(
        "engine",
        [
            {"hf_overrides": {"use_cache": False}},
            {"hf_overrides": {"pad_token_id": 3, "temperature": 0.5}},
            {"disable_sliding_window": True},
            {"max_model_len": 128},
            {"kv_cache_dtype": "fp8"},
            {"enable_lora": True},
            {
                "speculative_config": {
                    "method": "ngram",
                    "num_speculative_tokens": 2,
                    "prompt_lookup_max": 3,
                }
            },
            {"max_num_seqs": 4, "kv_cache_memory_bytes": 1 << 25},
        ],
        ids=lambda engine: next(iter(engine)),
    )
    def test_settings_that_no_tensor_depends_on(
        self, mesh: Mesh, checkpoints: Path, engine: dict[str, object]
    ) -> None:
        first = mesh.load(checkpoints / "one")

        second = mesh.load(checkpoints / "one", **engine)

        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "one", **engine)

    @pytest.mark.parametrize(
        "changes",
        [
            {
                "eos_token_id": 5,
                "use_cache": False,
                "initializer_range": 0.03,
                "id2label": {"0": "x"},
            },
            {"transformers_version": "4.0.0", "bos_token_id": 7, "label2id": {"x": 0}},
        ],
        ids=["repository", "release"],
    )
    def test_a_config_that_was_written_otherwise(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        other = configured(checkpoints / "one", tmp_path / "other", **changes)
        first = mesh.load(checkpoints / "one")

        second = mesh.load(other)

        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(other)

    @pytest.mark.parametrize(
        ("engine", "words"),
        [
            (
                {"hf_overrides": {"rope_parameters": {"rope_theta": 2e4, "rope_type": "default"}}},
                "config: rope_parameters.rope_theta: mine 20000.0, theirs 10000.0",
            ),
            (
                {"hf_overrides": {"rms_norm_eps": 0.01}},
                "config: rms_norm_eps: mine 0.01, theirs 1e-6",
            ),
            (
                {"hf_overrides": {"of_a_later_release": 3}},
                "config: of_a_later_release: mine 3, theirs nothing",
            ),
            ({"dtype": "float32"}, "dtype: mine 'float32', theirs 'bfloat16'"),
        ],
        ids=["rope_theta", "rms_norm_eps", "unknown", "dtype"],
    )
    def test_settings_that_do_count_are_named_with_both_values(
        self, mesh: Mesh, checkpoints: Path, engine: dict[str, object], words: str
    ) -> None:
        mesh.load(checkpoints / "one")

        second = mesh.load(checkpoints / "one", **engine)

        assert second.read_alone()
        assert words in second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "one", **engine)
