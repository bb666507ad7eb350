"""What a model class has read besides, or instead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.e2e.asking import COMMITS, INDEX, absent, found, repository
from tests.e2e.reading import Question, Secondary
from tests.e2e.selector import Selector
from tests.loader.trees import write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]


def heads(folder: Path, value: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.full((2,), value)}, folder / "head.pt")
    return folder / "head.pt"


HEAD = Secondary("", prefix="head.", patterns=("head.pt",))


def with_a(model: Path, *secondary: Secondary, **more: object) -> Question:
    """`model`, whose class has these read, too; of its own folder where they name no other."""
    named = tuple(replace(one, model=one.model or str(model)) for one in secondary)
    return replace(Question(str(model), secondary=named), **more)  # type: ignore[arg-type]


def test_secondary_files_are_covered_with_their_prefix(vllm: Selector, model: Path) -> None:
    heads(model)
    answer = found(vllm, with_a(model, HEAD))

    assert answer.files == (
        (str(model / "model.safetensors"), ""),
        (str(model / "head.pt"), "head."),
    )
    assert answer.tensors is not None
    assert set(answer.tensors) == {"a", "head.weight"}


def test_another_secondary_file_is_other_evidence(vllm: Selector, model: Path) -> None:
    question = with_a(model, HEAD)
    heads(model, 1)
    before = found(vllm, question)
    heads(model, 2)
    after = found(vllm, question)

    assert before.full != after.full
    assert before.sample != after.sample
    assert found(vllm, Question(str(model))).full not in (before.full, after.full)


def test_a_missing_secondary_file_is_not_at_hand(vllm: Selector, model: Path) -> None:
    assert "Cannot find" in absent(vllm, with_a(model, HEAD))


def test_a_subfolder_is_covered_without_its_neighbours(vllm: Selector, model: Path) -> None:
    write(model / "whisper" / "model.safetensors", {"a": b"second"})
    write(model / "other" / "model.safetensors", {"a": b"third"})
    answer = found(vllm, with_a(model, Secondary("", subfolder="whisper", prefix="audio.")))

    assert [path for path, _ in answer.files] == [
        str(model / "model.safetensors"),
        str(model / "whisper" / "model.safetensors"),
    ]


def test_another_repository_is_read_at_its_own_revision(
    vllm: Selector, model: Path, tmp_path: Path
) -> None:
    """At none that is named: the model's own does not apply to it."""
    repository(tmp_path, "org/tower", COMMITS[0], b"older")
    snapshot = repository(tmp_path, "org/tower", COMMITS[1], b"newer")
    tower = Secondary("org/tower", prefix="tower.")
    question = with_a(model, tower, revision="v1", download_dir=str(tmp_path / "hub"))
    answer = found(vllm, question)

    assert answer.files[1:] == ((str(snapshot / "model.safetensors"), "tower."),)
    at_commit = replace(question, secondary=(replace(tower, revision=COMMITS[0]),))
    older = found(vllm, at_commit)
    assert COMMITS[0] in older.files[1][0]
    assert older.full != answer.full


def test_another_repository_that_is_not_here_is_not_at_hand(
    vllm: Selector, model: Path, tmp_path: Path
) -> None:
    question = with_a(model, Secondary("org/tower"), download_dir=str(tmp_path / "hub"))

    assert "org/tower" in absent(vllm, question)


def test_a_repository_id_and_its_snapshot_are_the_same_files(
    vllm: Selector, tmp_path: Path
) -> None:
    snapshot = repository(tmp_path, "org/model", COMMITS[0], b"data")
    by_name = found(vllm, Question("org/model", download_dir=str(tmp_path / "hub")))
    by_path = found(vllm, Question(str(snapshot)))

    assert by_name.files == by_path.files
    assert by_name.commit == by_path.commit == f"org/model@{COMMITS[0]}"


def test_a_commit_stands_for_all_weights_or_for_none(vllm: Selector, tmp_path: Path) -> None:
    snapshot = repository(tmp_path, "org/model", COMMITS[0], b"data")
    repository(tmp_path, "org/tower", COMMITS[1], b"tower")
    heads(snapshot)
    plain = Question("org/model", download_dir=str(tmp_path / "hub"))
    own = replace(HEAD, model="org/model")

    assert found(vllm, replace(plain, secondary=(own,))).commit == f"org/model@{COMMITS[0]}"
    for other in (Secondary("org/tower"), replace(own, revision=COMMITS[0])):
        assert found(vllm, replace(plain, secondary=(own, other))).commit is None


def test_patterns_of_the_model_class_count_alone(vllm: Selector, model: Path) -> None:
    write(model / "draft.safetensors", {"a": b"draft"})
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))

    assert found(vllm, Question(str(model))).names == ["model.safetensors"]
    answer = found(vllm, Question(str(model), patterns=("draft*.safetensors",)))
    assert answer.names == ["draft.safetensors"]


def test_a_model_class_without_pt_files_has_none_read(vllm: Selector, tmp_path: Path) -> None:
    heads(tmp_path)

    assert found(vllm, Question(str(tmp_path), "hf")).names == ["head.pt"]
    absent(vllm, Question(str(tmp_path), "hf", no_pt=True))


def test_files_of_unused_tensors_do_not_count(vllm: Selector, model: Path) -> None:
    """vLLM looks into them to see that nothing in them is loaded."""
    extra = model / "extra.safetensors"
    write(extra, {"layers.0": b"one", "layers.1": b"two"})
    question = Question(str(model), unused=("layers.",))
    before = found(vllm, question)
    write(extra, {"layers.0": b"not", "layers.1": b"the same"})

    assert before.names == ["model.safetensors"]
    assert found(vllm, question).full == before.full
    write(extra, {"layers.0": b"one", "b": b"used"})
    assert found(vllm, question).names == ["extra.safetensors", "model.safetensors"]
