"""What post-processing and a reload in place leave to be served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.hosts import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestMemoryOfOriginals:
    @pytest.mark.parametrize("mode", ["dram", "no"])
    def test_who_keeps_nothing_serves_what_survived_or_nothing(
        self, mesh: Mesh, checkpoints: Path, mode: str
    ) -> None:
        """Where vLLM packs weights (AVX-512 and more), `no` makes no source, and says so."""
        first = mesh.load(checkpoints / "one", {"INT8_CACHE": mode})

        second = mesh.load(checkpoints / "one")

        assert second.tensors == mesh.host.truth(checkpoints / "one")
        if first.endpoint:
            assert second.pulled_from(first), second.reasons
        else:
            assert mode == "no"
            assert "INT8_CACHE" in first.report["not_a_source"]
            assert second.read_alone()


class TestReloadInPlace:
    @pytest.mark.parametrize("times", [1, 2])
    def test_a_source_is_withdrawn_before_the_first_tensor_is_written_and_comes_back(
        self, mesh: Mesh, checkpoints: Path, times: int
    ) -> None:
        first = mesh.load(checkpoints / "one")

        told = [mesh.reload() for _ in range(times)]
        mesh.until_ready(first.endpoint)
        second = mesh.load(checkpoints / "one")

        for one in told:
            assert one["states"], one
            assert "ready" not in dict(one["states"])
        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "one")

    def test_other_weights_are_never_served_under_the_name_of_the_first(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        first = mesh.load(checkpoints / "one")

        told = mesh.reload(checkpoints / "two")
        second = mesh.load(checkpoints / "one")

        assert "error" not in told
        assert first.endpoint not in second.suppliers
        held = mesh.member(first.endpoint)
        assert (held["state"], held["ready"]) == ("unavailable", False)
        assert "it holds other weights now" in held["reason"]
        assert second.tensors == mesh.host.truth(checkpoints / "one")
