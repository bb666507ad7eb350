"""Other releases of vLLM, whose loader is written another way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import releases
from tests.e2e.asking import INDEX, agrees
from tests.e2e.reading import Question
from tests.e2e.selector import Selector
from tests.loader.trees import write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]


@pytest.mark.parametrize("kind", ["three and no subfolder", "another parameter", "reads by itself"])
def test_other_releases_are_asked_as_well(vllm: Selector, other: Path, kind: str) -> None:
    (other / INDEX).write_text(json.dumps({"weight_map": {"a": "0.safetensors"}}))
    write(other / "junk.safetensors", {"a": b"junk"})
    answer = vllm(releases.in_a_release, kind, Question(str(other)))

    agrees(answer)
    assert answer.names == ["0.safetensors"]


def test_what_another_release_does_not_tell_is_not_known_and_still_loads(
    vllm: Selector, model: Path
) -> None:
    answer = vllm(releases.in_a_release, "says it in another way", Question(str(model)))

    assert answer.refused == "IdentityError"
    assert answer.tensors is not None
    assert not answer.as_asked or answer.files == ()
