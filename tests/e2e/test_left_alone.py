"""Whoever asks leaves vLLM as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import disturbances
from tests.e2e.reading import Question
from tests.e2e.selector import Selector
from tests.loader.trees import write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]


def test_a_model_that_is_read_between_two_tensors_of_another_is_kept_apart(
    vllm: Selector, model: Path, other: Path
) -> None:
    replaced, one, between = vllm(
        disturbances.interrupted, Question(str(other)), Question(str(model))
    )

    assert replaced == []
    assert one.names == ["0.safetensors", "1.safetensors", "2.safetensors"]
    assert between.names == ["model.safetensors"]
    assert vllm(disturbances.replaced) == []


def test_a_model_that_gives_up_leaves_nothing_replaced(vllm: Selector, other: Path) -> None:
    assert vllm(disturbances.given_up, Question(str(other))) == []


def test_when_vllm_fails_half_way_we_say_so_and_nothing_is_replaced(
    vllm: Selector, model: Path
) -> None:
    said, replaced = vllm(disturbances.failing_while_it_chooses, Question(str(model)))

    assert "in vLLM" in said
    assert replaced == []


def test_threads_do_not_see_each_others_files(vllm: Selector, model: Path, other: Path) -> None:
    questions = [Question(str(folder)) for folder in (model, other, model, other)]

    assert vllm(disturbances.at_once, questions, 25) == (0, [])


def test_reading_again_is_noted_again(vllm: Selector, model: Path, tmp_path: Path) -> None:
    changed = write(tmp_path / "changed.safetensors", {"a": b"fir5t"}).read_bytes()

    assert vllm(disturbances.read_twice, Question(str(model)), changed) == (True, True, [])
