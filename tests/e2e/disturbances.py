"""What may happen while vLLM reads. Each says whether vLLM's functions are its own again.

In the process of a `Selector`.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from tests.e2e.reading import Answer, Question, ask, loader_for, read, weights_of


def replaced() -> list[str]:
    """Which of vLLM's functions are not its own at this moment."""
    from vllm.model_executor.model_loader import default_loader, weight_utils

    return [
        name
        for name, value in vars(default_loader).items()
        if name.endswith("_weights_iterator") and value is not getattr(weight_utils, name)
    ]


def interrupted(first: Question, second: Question) -> tuple[list[str], Answer, Answer]:
    """Begin to read one model, read another, and go on with the first.

    What was replaced in between, and what was read of each.
    """
    one, other = loader_for(first), loader_for(second)
    tensors = weights_of(one, first)
    next(iter(tensors))
    left = replaced()
    ask(second)
    read(other, second)
    for _ in tensors:
        pass
    return left, _answer_of(one), _answer_of(other)


def given_up(question: Question) -> list[str]:
    """A model that takes one tensor and fails; what is replaced afterwards, the loader still
    around."""
    loader = loader_for(question)
    tensors = weights_of(loader, question)
    with suppress(ZeroDivisionError):
        for _ in tensors:
            raise ZeroDivisionError
    return replaced()


def failing_while_it_chooses(question: Question) -> tuple[str, list[str]]:
    """vLLM itself raises in the middle; what we say, and what is replaced afterwards."""
    from vllm.model_executor.model_loader import default_loader

    from netloader.errors import IdentityError

    def broken(hf_weights_files: list[str], *args: object, **kwargs: object) -> Any:
        raise ZeroDivisionError("in vLLM")

    said = ""
    with mock.patch.object(default_loader, "filter_duplicate_safetensors_files", broken):
        try:
            ask(question)
        except IdentityError as error:
            said = str(error)
        with suppress(ZeroDivisionError):
            read(loader_for(question), question)
    return said, replaced()


def at_once(questions: list[Question], rounds: int) -> tuple[int, list[str]]:
    """Each question asked and read in a thread of its own, all at once, again and again.

    How many answers were not those that the question has alone, and what is replaced afterwards.
    """
    alone = [_both(question) for question in questions]
    together = threading.Barrier(len(questions))

    def again(question: Question) -> list[object]:
        together.wait(30)
        return [_both(question) for _ in range(rounds)]

    with ThreadPoolExecutor(len(questions)) as pool:
        found = list(pool.map(again, questions))
    wrong = sum(
        answer != right for right, answers in zip(alone, found, strict=True) for answer in answers
    )
    return wrong, replaced()


def _both(question: Question) -> object:
    asked, loader = ask(question), loader_for(question)
    return asked, read(loader, question), loader.read


def read_twice(question: Question, other: bytes) -> tuple[bool, bool, list[str]]:
    """Read, overwrite the only file, and read again with the same loader, as `reload_weights` does.

    Whether each time what was read is what is there then.
    """
    from netloader.checkpoint import evidence

    loader = loader_for(question)
    found = []
    for _ in range(2):
        read(loader, question)
        done = loader.read
        found.append(done is not None and evidence.changed_since(done.stamps) is None)
        before = done
        Path(question.model, "model.safetensors").write_bytes(other)
        assert before is not None
        found.append(evidence.changed_since(before.stamps) is not None)
    return all(found[::2]), all(found[1::2]), replaced()


def _answer_of(loader: Any) -> Answer:
    return Answer(files=tuple((str(file.path), file.prefix) for file in loader.read.files))
