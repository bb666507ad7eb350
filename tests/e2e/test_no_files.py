"""Replicas without weight files, which an operator tells what to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.folders import copied, sharded
from tests.e2e.hosts import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestReplicaWithoutWeightFiles:
    @pytest.fixture
    def bare(self, checkpoints: Path, tmp_path: Path) -> Path:
        return copied(checkpoints / "one", tmp_path / "bare", without="*.safetensors")

    def test_it_takes_the_content_that_an_operator_hands_over(
        self, mesh: Mesh, checkpoints: Path, bare: Path
    ) -> None:
        """Also when a source of the same name, nearer by nothing, holds other content."""
        other = mesh.load(checkpoints / "two", {"MODEL": "m"})
        first = mesh.load(checkpoints / "one", {"MODEL": "m"})
        content = f"sample:{first.content['sample']}"

        second = mesh.load(bare, {"MODEL": "m", "CONTENT": content})

        assert other.content != first.content
        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "one")

    def test_what_it_has_pulled_it_serves(
        self, mesh: Mesh, checkpoints: Path, bare: Path, tmp_path: Path
    ) -> None:
        first = mesh.load(checkpoints / "one")
        content = {"CONTENT": f"sample:{first.content['sample']}"}
        second = mesh.load(bare, content)
        mesh.leave(first)

        third = mesh.load(copied(bare, tmp_path / "barer"), content)

        assert third.pulled_from(second), third.reasons

    def test_without_content_it_does_not_guess_and_says_what_to_do(
        self, mesh: Mesh, checkpoints: Path, bare: Path
    ) -> None:
        first = mesh.load(checkpoints / "one", {"MODEL": "m"})

        row = mesh.load(bare, {"MODEL": "m"})

        assert row.error.startswith("NothingToLoadError")
        assert "Cannot find any model weights" in row.error
        assert "set CONTENT" in row.error
        assert f"CONTENT=sample:{first.content['sample']}" in row.error

    def test_with_nobody_up_it_says_both(self, mesh: Mesh, checkpoints: Path, bare: Path) -> None:
        row = mesh.load(bare, {"CONTENT": f"sample:{'0' * 32}"})

        assert row.error.startswith("NothingToLoadError")
        assert f"wants sample:{'0' * 32}" in row.error
        assert "Cannot find any model weights" in row.error
        assert "waited 1 s for a source, none came" in row.error

    def test_other_content_under_the_same_name_is_never_taken(
        self, mesh: Mesh, checkpoints: Path, bare: Path
    ) -> None:
        other = mesh.load(checkpoints / "two", {"MODEL": "m"})

        row = mesh.load(bare, {"MODEL": "m", "CONTENT": f"sample:{'0' * 32}"})

        assert row.error.startswith("NothingToLoadError")
        assert f"theirs '{other.content['sample']}'" in row.error

    def test_half_a_download_is_no_checkpoint(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """A shard that the index names is missing: peers have it."""
        whole = sharded(checkpoints / "one", tmp_path / "whole", 2)
        half = copied(whole, tmp_path / "half", without="model-00002-*")
        first = mesh.load(whole)

        second = mesh.load(half, {"CONTENT": f"sample:{first.content['sample']}"})

        assert second.pulled_from(first), second.reasons

    def test_content_that_contradicts_the_files_stops_the_start(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        row = mesh.load(checkpoints / "one", {"CONTENT": f"sample:{'0' * 32}"})

        assert row.error.startswith("ConfigError")
        assert "CONTENT" in row.error
