"""Situations that deployments have, and what becomes of the weights in each.

Every load is vLLM's own, through the plugin, with a member of a real mesh (`cases.py`). What is
right is what vLLM's `auto` loads from the same folder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any, Self

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.e2e.hub import Hub, contents, lay_out
from tests.e2e.models import make_llama
from tests.e2e.servers import free_port, isolated_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_START_S = 400.0
"""Importing vLLM takes it ten seconds, and minutes beside a busy machine's other tests."""
_LOAD_S = 90.0

INDEX = "model.safetensors.index.json"
COMMIT = "a" * 39 + "1"
OTHER_COMMIT = "b" * 39 + "2"


@dataclass(frozen=True)
class Row:
    """What became of one load."""

    told: Mapping[str, Any]

    @property
    def error(self) -> str:
        """How it ended when it failed; empty when it did not."""
        return f"{self.told['error']}: {self.told['message']}" if "error" in self.told else ""

    @property
    def report(self) -> Mapping[str, Any]:
        assert not self.error, self.error
        return dict(self.told["report"])

    @property
    def draft(self) -> Mapping[str, Any]:
        assert not self.error, self.error
        return dict(self.told["draft"])

    @property
    def tensors(self) -> Mapping[str, str]:
        """SHA-256 of each tensor as loading left it."""
        assert not self.error, self.error
        return dict(self.told["tensors"])

    @property
    def endpoint(self) -> str:
        return str(self.report["endpoint"])

    @property
    def suppliers(self) -> list[str]:
        """Who delivered something."""
        return [str(delivery["endpoint"]) for delivery in self.report["deliveries"]]

    @property
    def reasons(self) -> str:
        """Why others were not used."""
        return "\n".join(map(str, self.report["skipped"]))

    @property
    def content(self) -> Mapping[str, str]:
        """What it tells the mesh of its content, by kind of evidence."""
        assert not self.error, self.error
        return dict(self.told["published"]["content"])

    def pulled_from(self, *sources: Row) -> bool:
        """Whether all of it came from some of `sources`, and is what they hold."""
        return (
            self.report["origin"] == "peers"
            and set(self.suppliers) <= {source.endpoint for source in sources}
            and all(self.tensors == source.tensors for source in sources)
            and self.told["storage"] == []
        )

    def read_alone(self) -> bool:
        """Whether it came from storage and nobody had sent anything."""
        return self.report["origin"] == "storage" and not self.suppliers


class Host:
    """A process that loads models one after the other, as `cases.py` is told."""

    def __init__(self, name: str, home: Path, env: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._names = (f"{name}{number}" for number in itertools.count())
        self._truth: dict[str, Mapping[str, str]] = {}
        self.log = home / f"{name}.log"
        environment = isolated_environment(home) | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.cases"],
                env=environment | dict(env or {}),
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._patience_s = _START_S

    def load(
        self,
        model: Path | str,
        extra: Mapping[str, object],
        engine: Mapping[str, object] | None = None,
        folder: Path | None = None,
    ) -> tuple[str, Row]:
        """Load one model, and say under which name it is kept."""
        name = next(self._names)
        told = {"do": "load", "name": name, "model": str(model), "extra": extra}
        told |= {"engine": engine or {}, "report": str(self._home / f"{name}.report.")}
        if folder is not None:
            told["folder"] = str(folder)
        return name, Row(self.ask(told))

    def truth(self, model: Path, **engine: object) -> Mapping[str, str]:
        """SHA-256 of each tensor as vLLM loads it without us."""
        key = f"{model} {engine}"
        if key not in self._truth:
            name, row = self.load(model, {}, {"load_format": "auto", **engine})
            self.ask({"do": "close", "names": [name]})
            self._truth[key] = row.tensors
        return self._truth[key]

    def ask(self, told: Mapping[str, object]) -> dict[str, Any]:
        """Tell it to do something, and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        self._process.stdin.flush()
        # Whoever does not answer is ended: then its output ends, too.
        timer = Timer(self._patience_s, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert line, f"{self.log}: " + self.log.read_text(errors="replace")[-4000:]
        self._patience_s = _LOAD_S
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It has nothing to finish: its members left when their tests ended.
        self._process.kill()
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Mesh:
    """One test's mesh: whoever is loaded in it leaves it when the test ends."""

    def __init__(self, folder: Path, host: Host) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.host = host
        self._there: list[tuple[Host, str, Row]] = []
        self._settings: dict[str, object] = {
            "MESH_DIRECTORY": str(folder),
            "MESH_ADVERTISE": "127.0.0.1",
            # Nobody comes later, unless a test says so.
            "SOURCE_TIMEOUT": 1,
        }

    def load(
        self,
        model: Path | str,
        extra: Mapping[str, object] | None = None,
        *,
        host: Host | None = None,
        folder: Path | None = None,
        **engine: object,
    ) -> Row:
        """Start a worker on `model`."""
        where = host or self.host
        name, row = where.load(model, self._settings | dict(extra or {}), engine, folder)
        self._there.append((where, name, row))
        return row

    def reload(self, path: Path | None = None) -> dict[str, Any]:
        """Have the worker that started last load its weights again, in place."""
        host, name, _ = self._there[-1]
        return host.ask({"do": "reload", "name": name, "path": str(path) if path else None})

    def leave(self, row: Row) -> None:
        """Have one worker leave the mesh and serve nobody any more."""
        for host, name, loaded in self._there:
            if loaded is row:
                host.ask({"do": "close", "names": [name]})

    def inspect(self, *arguments: str) -> str:
        """What `mesh-inspect` prints."""
        answer = subprocess.run(
            ["mesh-inspect", *arguments],
            env=isolated_environment(self.folder / "home")
            | {"NETLOADER_MESH_DIRECTORY": str(self.folder)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return answer.stdout

    def member(self, endpoint: str) -> dict[str, Any]:
        """What the mesh says of whoever serves at `endpoint`."""
        members = json.loads(self.inspect("-o", "json"))["members"]
        found: dict[str, Any] = next(one for one in members if one["endpoint"] == endpoint)
        return found

    def until_ready(self, endpoint: str) -> None:
        """Wait until the mesh says that this source may be asked."""
        deadline = time.monotonic() + 60
        while not self.member(endpoint)["ready"]:
            assert time.monotonic() < deadline, self.member(endpoint)

    def close(self) -> None:
        for host in {host for host, _, _ in self._there}:
            names = [name for at, name, _ in self._there if at is host]
            host.ask({"do": "close", "names": names})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`one`, `two` and `three`: models of one config with different weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("one", "two", "three"), start=1):
        make_llama(folder / name, seed=seed, megabytes=4)
    return folder


@pytest.fixture(scope="module")
def host(home: Path) -> Iterator[Host]:
    with Host("host", home) as host:
        yield host


_numbers = itertools.count()


@pytest.fixture
def mesh(host: Host, home: Path) -> Iterator[Mesh]:
    mesh = Mesh(home / f"mesh{next(_numbers)}", host)
    yield mesh
    mesh.close()


def copied(model: Path, to: Path, *, without: str = "") -> Path:
    """A copy of a checkpoint, without the files of one pattern."""
    shutil.copytree(model, to, ignore=shutil.ignore_patterns(without) if without else None)
    return to


def configured(model: Path, to: Path, **changes: object) -> Path:
    """A copy with changes in its config."""
    copied(model, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return to


def tensors_of(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def sharded(model: Path, to: Path, files: int) -> Path:
    """A copy whose tensors are spread over several files, with an index."""
    copied(model, to, without="*.safetensors")
    tensors = tensors_of(model)
    where = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[number::files]}
        save_file(part, to / name, metadata={"format": "pt"})
        where |= dict.fromkeys(part, name)
    (to / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return to


def consolidated(model: Path, weights: Path) -> Path:
    """Put a consolidated file with the weights of another checkpoint beside those of `model`."""
    shutil.copy(weights / "model.safetensors", model / "consolidated.safetensors")
    return model


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

        assert first.told["samples"] == second.told["samples"] == 0
        assert second.pulled_from(first), second.reasons
        # Bytes are common to both, so they are compared.
        assert plain.told["samples"] > 0
        assert plain.report["origin"] == "peers", plain.reasons

    def test_a_plain_folder_alone_is_not_sampled_before_it_is_loaded(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        alone = mesh.load(checkpoints / "one")

        assert alone.read_alone()
        assert alone.told["samples"] == 0
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
            name: stack.enter_context(Host(name, home, {"HF_HOME": str(homes / name), **env}))
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


class TestDrafts:
    def test_target_and_draft_come_from_a_static_source(
        self, mesh: Mesh, checkpoints: Path
    ) -> None:
        """Upstream's ports: the draft's listener is 10000 above the target's."""
        port = free_port()
        while port > 55535 or port < 1024:
            port = free_port()
        engine = {
            "speculative_config": {
                "method": "draft_model",
                "model": str(checkpoints / "two"),
                "num_speculative_tokens": 2,
            }
        }
        first = mesh.load(checkpoints / "one", {"LISTEN_PORT": port, "MESH": False}, **engine)
        source = [{"device_id": 0, "sources": [f"127.0.0.1:{port}"]}]

        second = mesh.load(checkpoints / "one", {"SOURCE": source, "MESH": False}, **engine)

        assert first.draft["endpoint"] == f"127.0.0.1:{port + 10000}"
        assert second.pulled_from(first), second.reasons
        assert second.draft["origin"] == "peers", second.draft["skipped"]
        assert [one["endpoint"] for one in second.draft["deliveries"]] == [first.draft["endpoint"]]
        assert second.draft["tensors"] == first.draft["tensors"] != {}

    def test_a_draft_of_the_same_content_is_no_target(self, mesh: Mesh, checkpoints: Path) -> None:
        engine = {
            "speculative_config": {
                "method": "draft_model",
                "model": str(checkpoints / "one"),
                "num_speculative_tokens": 2,
            }
        }
        target = mesh.load(checkpoints / "one")

        both = mesh.load(checkpoints / "one", **engine)
        again = mesh.load(checkpoints / "one", **engine)

        assert both.report["origin"] == "peers", both.reasons
        assert both.suppliers == [target.endpoint]
        assert both.draft["origin"] == "storage"
        assert both.draft["tensors"] == both.report["tensors"] == target.report["tensors"]
        assert again.pulled_from(target, both), again.reasons
        suppliers = {one["endpoint"] for one in again.draft["deliveries"]}
        assert suppliers == {both.draft["endpoint"]}
