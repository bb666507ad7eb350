"""Options of vLLM's own loader reach it unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.hosts import Mesh, Row

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
THREADS = {"enable_multithread_load": True, "num_threads": 4}


class TestVllmLoaderOptions:
    def threads(self, row: Row) -> list[object]:
        """How many threads vLLM was told to read each set of files with."""
        found = []
        for line in row.told["storage"]:
            name, _, options = line.partition(" ")
            found.append(json.loads(options).get("max_workers") if "multi_thread" in name else None)
        return found

    @pytest.mark.parametrize(
        "extra",
        [
            {**THREADS, "MODEL": "m"},
            {"STORAGE_CONFIG": THREADS},
            {"STORAGE_FORMAT": "safetensors", **THREADS},
        ],
        ids=["keys", "config", "format"],
    )
    def test_who_reads_storage_reads_it_with_them_and_who_pulls_does_not(
        self, mesh: Mesh, checkpoints: Path, extra: dict[str, object]
    ) -> None:
        first = mesh.load(checkpoints / "one", extra)

        second = mesh.load(checkpoints / "one", extra)

        assert first.read_alone()
        assert self.threads(first) == [4]
        assert first.tensors == mesh.host.truth(checkpoints / "one")
        assert second.pulled_from(first), second.reasons

    def test_without_them_it_is_read_as_by_auto(self, mesh: Mesh, checkpoints: Path) -> None:
        name, auto = mesh.host.load(checkpoints / "one", {}, {"load_format": "auto"})
        mesh.host.ask({"do": "close", "names": [name]})

        ours = mesh.load(checkpoints / "one")

        assert ours.told["storage"] == auto.told["storage"] != []

    def test_a_wrong_value_ends_as_with_auto(self, mesh: Mesh, checkpoints: Path) -> None:
        options = {"num_threads": "x"}
        _, auto = mesh.host.load(
            checkpoints / "one",
            {},
            {"load_format": "auto", "model_loader_extra_config": options},
        )

        ours = mesh.load(checkpoints / "one", options)

        assert "num_threads" in auto.error
        assert ours.error == auto.error

    def test_a_misspelt_key_of_ours_stops_the_start_and_says_what_is_known(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        row = mesh.load(checkpoints / "one", {"MODLE": "m"})

        assert row.error.startswith("ConfigError: MODLE='m'")
        for known in ("MODEL", "STORAGE_CONFIG", "STORAGE_FORMAT"):
            assert known in row.error

    @pytest.mark.parametrize("load_format", ["netloader", "banana"])
    def test_a_storage_format_that_is_none_stops_the_start(
        self, mesh: Mesh, checkpoints: Path, load_format: str
    ) -> None:
        row = mesh.load(checkpoints / "one", {"STORAGE_FORMAT": load_format})

        assert row.error.startswith(f"ConfigError: STORAGE_FORMAT={load_format!r}")
        assert "safetensors" in row.error

    def test_a_format_that_reads_no_files_is_never_shared(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        """Random weights belong to nobody's checkpoint."""
        mesh.load(checkpoints / "one")

        dummy = mesh.load(checkpoints / "one", {"STORAGE_FORMAT": "dummy"})

        assert dummy.read_alone()
        assert "dummy" in dummy.report["not_a_source"]
