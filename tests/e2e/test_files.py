"""Which files of a folder are the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.e2e.folders import consolidated, copied, sharded, tensors_of
from tests.e2e.hosts import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


class TestConsolidatedBesideShards:
    @pytest.fixture
    def both(self, checkpoints: Path, tmp_path: Path) -> Path:
        """Shards of `one` with their index, beside them a consolidated file of `two`."""
        return consolidated(sharded(checkpoints / "one", tmp_path / "both", 2), checkpoints / "two")

    def test_what_vllm_reads_is_what_counts(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path, both: Path
    ) -> None:
        plain = sharded(checkpoints / "one", tmp_path / "plain", 2)
        other = consolidated(
            sharded(checkpoints / "one", tmp_path / "other", 2), checkpoints / "three"
        )
        copy = copied(both, tmp_path / "copy")
        first = mesh.load(both, {"MODEL": "m"})

        rows = {folder: mesh.load(folder, {"MODEL": "m"}) for folder in (plain, other, copy)}

        assert first.tensors == mesh.host.truth(both) == mesh.host.truth(checkpoints / "two")
        for folder in (plain, other):
            assert rows[folder].read_alone()
            assert "checkpoint content (sample): mine" in rows[folder].reasons
        assert rows[plain].tensors == mesh.host.truth(checkpoints / "one")
        assert rows[other].tensors == mesh.host.truth(checkpoints / "three")
        assert rows[copy].pulled_from(first)

    def test_the_same_tensors_in_other_files_are_the_same(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """One file, two, three, and a consolidated one beside shards of something else."""
        first = mesh.load(checkpoints / "one")

        for number, folder in enumerate(
            (
                sharded(checkpoints / "one", tmp_path / "two", 2),
                sharded(checkpoints / "one", tmp_path / "three", 3),
                consolidated(
                    sharded(checkpoints / "three", tmp_path / "both", 2), checkpoints / "one"
                ),
            )
        ):
            row = mesh.load(folder)
            assert row.report["origin"] == "peers", (number, row.reasons)
            assert row.tensors == first.tensors == mesh.host.truth(folder)

    def test_a_file_that_the_index_does_not_name_is_ignored(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        folder = sharded(checkpoints / "one", tmp_path / "junk", 2)
        shutil.copy(checkpoints / "two" / "model.safetensors", folder / "model-old.safetensors")
        first = mesh.load(checkpoints / "one")

        second = mesh.load(folder)

        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(folder)

    def test_without_an_index_it_is_loaded_and_counts(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        folder = copied(checkpoints / "one", tmp_path / "more")
        save_file(
            {"model.norm.weight": torch.full((512,), 3.0, dtype=torch.bfloat16)},
            folder / "more.safetensors",
            metadata={"format": "pt"},
        )
        mesh.load(checkpoints / "one")

        second = mesh.load(folder)

        assert second.read_alone()
        assert "checkpoint content (sample): mine" in second.reasons
        assert second.tensors == mesh.host.truth(folder)

    def test_another_load_format_reads_the_other_files(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path, both: Path
    ) -> None:
        """STORAGE_FORMAT decides which of the two copies is the checkpoint."""
        plain = mesh.load(sharded(checkpoints / "one", tmp_path / "plain", 2))
        mistral = mesh.load(both)

        hf = mesh.load(both, {"STORAGE_FORMAT": "hf"})

        assert mistral.read_alone()
        assert hf.pulled_from(plain), hf.reasons
        assert hf.tensors == mesh.host.truth(both, load_format="hf")


class TestBinAndOtherFiles:
    def folder(self, model: Path, to: Path, name: str, **leftovers: object) -> Path:
        copied(model, to, without="*.safetensors")
        torch.save(tensors_of(model), to / name)
        for leftover, value in leftovers.items():
            torch.save(value, to / f"{leftover}.bin")
        return to

    def test_files_of_training_do_not_count(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        one, name = checkpoints / "one", "pytorch_model.bin"
        first = mesh.load(
            self.folder(one, tmp_path / "one", name, training_args=1, optimizer=[1.0])
        )

        for folder in (
            self.folder(one, tmp_path / "two", name, training_args=2, optimizer=[2.0]),
            self.folder(one, tmp_path / "clean", name),
        ):
            row = mesh.load(folder)
            assert row.report["origin"] == "peers", row.reasons
            assert row.tensors == first.tensors == mesh.host.truth(folder)

        other = mesh.load(
            self.folder(checkpoints / "two", tmp_path / "other", name, training_args=1)
        )

        assert other.read_alone()
        assert "checkpoint content (sample): mine" in other.reasons
        assert other.tensors == mesh.host.truth(checkpoints / "two")

    def test_a_pt_file_likewise(self, mesh: Mesh, checkpoints: Path, tmp_path: Path) -> None:
        one = self.folder(checkpoints / "one", tmp_path / "one", "weights.pt")
        two = self.folder(checkpoints / "two", tmp_path / "two", "weights.pt")
        first = mesh.load(one)

        same = mesh.load(copied(one, tmp_path / "same"))
        other = mesh.load(two)

        assert same.pulled_from(first), same.reasons
        assert other.read_alone()
        assert "checkpoint content (sample): mine" in other.reasons
        assert other.tensors == mesh.host.truth(two)

    def test_a_pt_file_beside_a_bin_is_not_read(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        first = mesh.load(self.folder(checkpoints / "one", tmp_path / "a", "pytorch_model.bin"))
        both = copied(tmp_path / "a", tmp_path / "both")
        torch.save(tensors_of(checkpoints / "two"), both / "weights.pt")

        second = mesh.load(both)

        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(both)
