"""What post-processing and a reload in place leave to be served."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Mesh
from tests.fastest import HANG_S

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

    def test_a_reload_that_fails_leaves_no_source_and_says_so(
        self, mesh: Mesh, checkpoints: Path, home: Path, tmp_path: Path
    ) -> None:
        # In a process of its own, where vLLM could build no further model after this.
        with Host("failing", home) as failing:
            first = mesh.load(checkpoints / "one", host=failing)
            told = mesh.reload(tmp_path / "nothing")
            second = mesh.load(checkpoints / "one")
            held = mesh.member(first.endpoint)
            mesh.leave(first)

        assert "nothing" in told["message"]
        assert (held["state"], held["ready"]) == ("unavailable", False)
        assert held["reason"].startswith("its weights could not be reloaded: ")
        assert second.read_alone()

    def test_while_a_replica_pulls_it_ends_with_the_right_weights(
        self, mesh: Mesh, checkpoints: Path, home: Path
    ) -> None:
        """At a rate at which the pull lasts some seconds."""
        first = mesh.load(checkpoints / "one", {"RATE_LIMIT": 1_000_000})
        with Host("pulling", home) as other, ThreadPoolExecutor(1) as pool:
            pulling = pool.submit(mesh.load, checkpoints / "one", host=other)
            mesh.until_serving(first.endpoint)
            told = mesh.reload(of=first)
            second = pulling.result(HANG_S)
            mesh.leave(second)

        assert "error" not in told
        assert second.tensors == mesh.host.truth(checkpoints / "one")
        assert first.endpoint in second.reasons, second.reasons

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
