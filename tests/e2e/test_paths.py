"""One checkpoint under other paths and names, and others under the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.folders import copied
from tests.e2e.hosts import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestSameCheckpointOtherPath:
    @pytest.mark.parametrize(
        "spelling",
        [
            "{here}/llama/",
            "{here}//llama",
            "{here}/./llama",
            "{here}/copy/../llama",
            "{here}/current",
            "./current",
            "llama",
            "{here}/copy/llama",
            "{here}/copy/llama//",
            "{here}/copy/renamed",
        ],
    )
    def test_it_is_taken_from_whoever_holds_it(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path, spelling: str
    ) -> None:
        copied(checkpoints / "one", tmp_path / "llama")
        copied(checkpoints / "one", tmp_path / "copy" / "llama")
        copied(checkpoints / "one", tmp_path / "copy" / "renamed")
        (tmp_path / "current").symlink_to(tmp_path / "llama")
        first = mesh.load(tmp_path / "llama")

        other = mesh.load(spelling.format(here=tmp_path), folder=tmp_path)

        assert first.read_alone()
        assert other.pulled_from(first), other.reasons
        assert other.tensors == mesh.host.truth(checkpoints / "one")

    def test_the_same_last_component_with_other_content_is_refused(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        mesh.load(copied(checkpoints / "one", tmp_path / "here" / "llama"))

        other = mesh.load(copied(checkpoints / "two", tmp_path / "there" / "llama"))

        assert other.read_alone()
        assert "checkpoint content (sample): mine" in other.reasons
        assert other.tensors == mesh.host.truth(checkpoints / "two")

    def test_the_same_path_with_other_content_is_refused(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """Hosts have folders of one name, and one host has a new release in its folder."""
        folder = copied(checkpoints / "one", tmp_path / "llama")
        mesh.load(folder)
        shutil.rmtree(folder)

        other = mesh.load(copied(checkpoints / "two", folder))

        assert other.read_alone()
        assert "checkpoint content (sample): mine" in other.reasons
        assert other.tensors == mesh.host.truth(checkpoints / "two")

    @pytest.mark.parametrize(
        ("theirs", "mine", "shares"),
        [("m", "m", True), ("m", "n", False), ("m", None, True), (None, "m", True)],
    )
    def test_a_name_decides_where_operators_gave_one_on_both_sides(
        self, mesh: Mesh, checkpoints: Path, theirs: str | None, mine: str | None, shares: bool
    ) -> None:
        first = mesh.load(checkpoints / "one", {"MODEL": theirs} if theirs else {})

        second = mesh.load(checkpoints / "one", {"MODEL": mine} if mine else {})

        if shares:
            assert second.pulled_from(first), second.reasons
        else:
            assert second.read_alone()
            assert "MODEL: mine 'n', theirs 'm'" in second.reasons
