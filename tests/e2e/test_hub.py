"""Snapshots of the Hub's cache, by path and by name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import Host, Mesh
from tests.e2e.hub import Hub, contents, lay_out

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
COMMIT = "a" * 39 + "1"
OTHER_COMMIT = "b" * 39 + "2"


class TestHubCommit:
    """Snapshots in the Hub's cache, given by their paths."""

    def snapshot(
        self, model: Path, home: Path, commit: str = COMMIT, *, readme: str = "", **options: Any
    ) -> Path:
        files = contents(model) | ({"README.md": readme.encode()} if readme else {})
        return lay_out(home, "org/tiny", commit, files, **options)

    def test_a_commit_that_changed_no_weight_does_not_count(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        first = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h1"), {"MODEL": "tiny"})

        second = mesh.load(
            self.snapshot(checkpoints / "one", tmp_path / "h2", OTHER_COMMIT, readme="new"),
            {"MODEL": "tiny"},
        )
        third = mesh.load(
            self.snapshot(checkpoints / "three", tmp_path / "h3", OTHER_COMMIT), {"MODEL": "tiny"}
        )

        assert second.pulled_from(first), second.reasons
        assert third.read_alone()
        assert "checkpoint content (blobs): mine" in third.reasons
        assert third.tensors == mesh.host.truth(checkpoints / "three")

    def test_hub_caches_are_compared_without_a_sample(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """Nor does a start without peers read anything that nobody asks for."""
        first = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h1"))
        second = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h2"))

        plain = mesh.load(checkpoints / "one")

        assert first.told["opened"] == second.told["opened"] == 0
        assert second.pulled_from(first), second.reasons
        # Bytes are common to both, so they are compared.
        assert plain.told["opened"] > 0
        assert plain.report["origin"] == "peers", plain.reasons

    def test_a_plain_folder_alone_is_not_sampled_before_it_is_loaded(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        alone = mesh.load(checkpoints / "one")

        assert alone.read_alone()
        assert alone.told["opened"] == 0
        assert "sample" in alone.content

    def test_equal_commits_do_not_outweigh_other_blobs(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """A branch was pushed over, or a cache is damaged: one commit, other bytes."""
        mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h1"))

        second = mesh.load(self.snapshot(checkpoints / "two", tmp_path / "h2"))

        assert second.read_alone()
        assert "checkpoint content (blobs): mine" in second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "two")

    def test_a_blob_with_other_bytes_than_its_name_says_is_never_shared(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        lie = {
            "model.safetensors": contents(checkpoints / "one")["model.safetensors"],
        }
        liar = mesh.load(self.snapshot(checkpoints / "two", tmp_path / "h1", named_as=lie))

        honest = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h2"))
        bare = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h3", weights=False))

        assert "commit" not in liar.content
        assert honest.read_alone()
        assert "checkpoint content (blobs): mine" in honest.reasons
        assert honest.tensors == mesh.host.truth(checkpoints / "one")
        # It knows a commit only, and the honest one is there by now.
        assert bare.pulled_from(honest), bare.reasons

    def test_who_knows_only_a_commit_gets_nothing_from_a_damaged_cache(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path
    ) -> None:
        """One byte is wrong, at a place that no sample need see."""
        good = contents(checkpoints / "one")
        data = bytearray(good["model.safetensors"])
        data[random.Random(1).randrange(len(data) // 2, len(data))] ^= 1
        damaged = lay_out(
            tmp_path / "h1",
            "org/tiny",
            COMMIT,
            good | {"model.safetensors": bytes(data)},
            named_as=good,
        )
        mesh.load(damaged)

        bare = mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h3", weights=False))

        assert bare.error.startswith("NothingToLoadError")

    @pytest.mark.parametrize("repo", ["org/tiny", "org/other"])
    def test_who_knows_only_another_commit_is_refused(
        self, mesh: Mesh, checkpoints: Path, tmp_path: Path, repo: str
    ) -> None:
        """Of the same repository, or one of the same number in another."""
        mesh.load(self.snapshot(checkpoints / "one", tmp_path / "h1"))
        commit = OTHER_COMMIT if repo == "org/tiny" else COMMIT
        bare = lay_out(tmp_path / "h2", repo, commit, contents(checkpoints / "one"), weights=False)

        row = mesh.load(bare)

        assert row.error.startswith("NothingToLoadError")
        assert f"commit:{repo}@{commit}" in row.error
        assert "checkpoint content (commit): mine" in row.error


@pytest.fixture(scope="module")
def homes(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`h1` and `h2` hold org/tiny; of org/bare `h2` has no weights; `empty` holds nothing."""
    folder = tmp_path_factory.mktemp("hub")
    for home in ("h1", "h2"):
        lay_out(folder / home, "org/tiny", COMMIT, contents(checkpoints / "one"))
        lay_out(
            folder / home,
            "org/bare",
            OTHER_COMMIT,
            contents(checkpoints / "two"),
            weights=home == "h1",
        )
    return folder


@pytest.fixture(scope="module")
def hub(checkpoints: Path) -> Iterator[Hub]:
    with Hub("org/tiny", COMMIT, contents(checkpoints / "one")).serving() as hub:
        yield hub


@pytest.fixture(scope="module")
def hosts(homes: Path, hub: Hub, home: Path) -> Iterator[dict[str, Host]]:
    """Their environments differ, so each is a process. They start at the same time."""
    online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Host(name, home, hub={"HF_HOME": str(homes / name), **env}))
            for name, env in (("h1", {}), ("h2", {}), ("empty", online))
        }


class TestHubOfflineName:
    def test_one_repository_is_shared_however_it_is_given(
        self, mesh: Mesh, hosts: dict[str, Host], homes: Path, hub: Hub, checkpoints: Path
    ) -> None:
        place = homes / "h2" / "hub" / "models--org--tiny" / "snapshots" / COMMIT
        before = list(hub.weights_asked)
        first = mesh.load("org/tiny", host=hosts["h1"])

        offline = mesh.load("org/tiny", host=hosts["h2"])
        pinned = mesh.load("org/tiny", host=hosts["h2"], revision=COMMIT)
        online = mesh.load("org/tiny", host=hosts["empty"])
        by_path = mesh.load(place)

        assert first.read_alone()
        truth = mesh.host.truth(checkpoints / "one")
        for row in (offline, pinned, online, by_path):
            assert row.report["origin"] == "peers", row.reasons
            assert row.told["storage"] == []
            assert row.tensors == truth
        assert hub.asked, "it was the one that had to fetch the config"
        assert hub.weights_asked == before
        members = json.loads(mesh.inspect("-o", "json"))["members"]
        assert [member["model"] for member in members] == ["org/tiny"] * 5

    @pytest.mark.parametrize("extra", [{}, {"MODEL": "m"}], ids=["", "MODEL"])
    def test_a_commit_is_enough_where_there_are_no_weight_files(
        self,
        mesh: Mesh,
        hosts: dict[str, Host],
        checkpoints: Path,
        extra: dict[str, object],
    ) -> None:
        first = mesh.load("org/bare", extra, host=hosts["h1"])

        second = mesh.load("org/bare", extra, host=hosts["h2"])

        assert first.content["commit"] == f"org/bare@{OTHER_COMMIT}"
        assert second.pulled_from(first), second.reasons
        assert second.tensors == mesh.host.truth(checkpoints / "two")

    def test_what_came_by_its_commit_is_handed_on(
        self, mesh: Mesh, hosts: dict[str, Host], homes: Path, checkpoints: Path
    ) -> None:
        """To whoever has no files either, and to whoever has some; the first is gone by then."""
        place = homes / "h2" / "hub" / "models--org--bare" / "snapshots" / OTHER_COMMIT
        first = mesh.load("org/bare", host=hosts["h1"])
        second = mesh.load("org/bare", host=hosts["h2"])
        mesh.leave(first)

        bare = mesh.load(place)
        plain = mesh.load(checkpoints / "two")

        assert second.content == first.content
        assert bare.pulled_from(second), bare.reasons
        assert plain.pulled_from(second, bare), plain.reasons

    def test_nobody_there_means_the_hub_itself(
        self, mesh: Mesh, hosts: dict[str, Host], hub: Hub, checkpoints: Path
    ) -> None:
        before = len(hub.weights_asked)

        alone = mesh.load("org/tiny", host=hosts["empty"])

        assert alone.read_alone()
        assert len(hub.weights_asked) == before + 1
        assert alone.tensors == mesh.host.truth(checkpoints / "one")
        # What it has downloaded is a checkpoint like any other.
        assert alone.content["commit"] == f"org/tiny@{COMMIT}"
