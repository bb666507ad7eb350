"""Sources that an operator lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.folders import copied
from tests.e2e.hosts import Mesh, Row

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestStaticSource:
    """Upstream's check: it must serve the model of the same name."""

    def source(self, *rows: Row) -> dict[str, object]:
        sources = [row.endpoint for row in rows]
        return {"MESH": False, "SOURCE": [{"device_id": 0, "sources": sources}]}

    def test_another_name_is_refused_and_the_words_name_the_setting(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        copy = copied(checkpoints / "one", tmp_path / "renamed")
        first = mesh.load(checkpoints / "one")

        second = mesh.load(copy, self.source(first))

        assert second.read_alone()
        assert str(copy) in second.reasons
        assert str(checkpoints / "one") in second.reasons
        assert "set MODEL alike on both" in second.reasons

    def test_with_the_same_name_it_shares(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        first = mesh.load(checkpoints / "one", {"MODEL": "m"})

        second = mesh.load(
            copied(checkpoints / "one", tmp_path / "renamed"), self.source(first) | {"MODEL": "m"}
        )

        assert second.pulled_from(first), second.reasons

    def test_a_trailing_slash_is_no_other_name(self, mesh: Mesh, checkpoints: Path) -> None:
        first = mesh.load(checkpoints / "one")

        second = mesh.load(f"{checkpoints}/one/", self.source(first))

        assert second.pulled_from(first), second.reasons

    def test_the_same_name_with_other_content_is_refused(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        first = mesh.load(checkpoints / "one", {"MODEL": "m"})

        second = mesh.load(checkpoints / "two", self.source(first) | {"MODEL": "m"})

        assert second.read_alone()
        assert "refused: checkpoint content (sample): mine" in second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "two")
