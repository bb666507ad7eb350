"""Ask which files vLLM reads, and check the answer against what it then reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.e2e import hub, reading
from tests.e2e.reading import Answer, Question
from tests.e2e.selector import Selector
from tests.loader.trees import write

INDEX = "model.safetensors.index.json"


def agrees(answer: Answer) -> None:
    """What was said beforehand is what came."""
    assert answer.refused in ("", "NotAtHand"), answer.why
    assert (answer.refused == "") == (answer.tensors is not None), (answer.why, answer.error)
    assert answer.as_asked or answer.refused
    assert answer.beyond == ()


def found(vllm: Selector, question: Question) -> Answer:
    """The answer to a question that has one."""
    answer = vllm(reading.look, question)
    agrees(answer)
    assert not answer.refused, answer.why
    return answer


def absent(vllm: Selector, question: Question) -> str:
    """Why the weights are not at hand."""
    answer = vllm(reading.look, question)
    agrees(answer)
    assert answer.refused == "NotAtHand"
    return answer.why


COMMITS = ("c0ffee" * 6 + "c0ff", "decade" * 6 + "deca")


def repository(root: Path, repo: str, commit: str, data: bytes) -> Path:
    """A snapshot of weights alone."""
    made = write(root / "made" / "model.safetensors", {"a": data})
    snapshot = hub.lay_out(root, repo, commit, {"model.safetensors": made.read_bytes()})
    shutil.rmtree(root / "made")
    return snapshot
