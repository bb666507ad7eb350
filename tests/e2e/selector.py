"""vLLM in a process of its own that says which files it would read, reads them, and is teased.

    with Selector(home) as vllm:
        vllm(look, Question("/models/one"))

One process answers everything.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar
from unittest import mock

from tests.e2e.processes import isolated_environment, start_vllm

if TYPE_CHECKING:
    import torch

    from netloader.checkpoint.wanted import Files

P = ParamSpec("P")
T = TypeVar("T")

_START_S = 300.0
_ANSWER_S = 60.0


class Selector:
    """The process. Calling it has a function of this module called there."""

    def __init__(self, home: Path) -> None:
        self._environment = isolated_environment(home)

    def __enter__(self) -> Self:
        self._process = start_vllm("tests.e2e.selector", env=self._environment)
        self._questions = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._answers = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.close()
        self._receive(_START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._questions.close()
        self._answers.close()

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._questions.send((function, args, kwargs))
        return self._receive(_ANSWER_S)  # type: ignore[no-any-return]

    def _receive(self, seconds: float) -> Any:
        assert self._answers.poll(seconds), f"vLLM's process has not answered for {seconds:g} s"
        answer = self._answers.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def main() -> None:
    """Call what standard input says, and answer on standard output."""
    questions = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    # vLLM writes its log there as well.
    os.dup2(2, 1)
    answers.send("ready")
    while True:
        function, args, kwargs = questions.recv()
        try:
            answers.send(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            answers.send(AssertionError(repr(error)))


@dataclass(frozen=True)
class Secondary:
    """Weights that a model class has read besides, as vLLM's `Source` names them."""

    model: str
    revision: str | None = None
    subfolder: str | None = None
    prefix: str = ""
    patterns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A model, and how it is loaded."""

    model: str
    load_format: str = "auto"
    revision: str | None = None
    download_dir: str | None = None
    patterns: tuple[str, ...] | None = None
    """What the model class allows alone."""
    no_pt: bool = False
    """The model class has no `.pt` read."""
    unused: tuple[str, ...] = ()
    """How the names begin of tensors that the model class does not load."""
    secondary: tuple[Secondary, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


Tensors = dict[str, list[tuple[str, tuple[int, ...], str]]]
"""By name, in the order of reading: type, shape, digest of the bytes."""


@dataclass(frozen=True)
class Answer:
    """What we say that vLLM reads, and what it reads."""

    files: tuple[tuple[str, str], ...] = ()
    """Path and prefix."""
    full: str = ""
    sample: str = ""
    commit: str | None = None
    refused: str = ""
    """The kind of error with which we say that it cannot be said."""
    why: str = ""
    tensors: Tensors | None = None
    """None where vLLM cannot load."""
    error: str = ""
    as_asked: bool = False
    """vLLM has read the files that were named before, in this order, unchanged."""
    beyond: tuple[str, ...] = ()
    """What was opened in the meantime and counts as unknown."""

    @property
    def names(self) -> list[str]:
        return [Path(path).name for path, _ in self.files]


def look(question: Question) -> Answer:
    """Ask, then read."""
    from netloader.checkpoint import evidence, opened
    from netloader.engine import identify
    from netloader.errors import IdentityError

    files = None
    watched = opened.Opened()
    with _environment(question.environment), opened.watching(watched):
        try:
            files = _ask(question)
            answer = Answer(
                files=tuple((str(file.path), file.prefix) for file in files.files),
                full=evidence.full(files.files),
                sample=evidence.sample(files.files),
            )
        except IdentityError as error:
            answer = Answer(refused=type(error).__name__, why=str(error))
        commit = identify.commit_of(_model(question), _model_config(question), _config(question))
        answer = replace(answer, commit=commit)
        loader = _loader(question)
        try:
            tensors = _read(loader, question)
        except Exception as error:  # noqa: BLE001
            return replace(answer, error=repr(error))
    read = loader.read
    return replace(
        answer,
        tensors=tensors,
        as_asked=read == files,
        beyond=tuple(map(str, watched.beyond(read.paths, read.folders))) if read else (),
    )


def _ask(question: Question) -> Files:
    from netloader.engine import storage

    return storage.ask(_config(question), _model(question), _model_config(question))


def _loader(question: Question) -> Any:
    from netloader.engine.storage import StorageLoader

    return StorageLoader(_config(question))


def _weights(loader: Any, question: Question) -> Iterator[tuple[str, torch.Tensor]]:
    return loader.get_all_weights(_model_config(question), _model(question))  # type: ignore[no-any-return]


def _read(loader: Any, question: Question) -> Tensors:
    """With vLLM's own iterator."""
    import torch

    found: Tensors = defaultdict(list)
    for name, tensor in _weights(loader, question):
        plain = tensor.contiguous().flatten().view(torch.uint8)
        digest = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
        found[name].append((str(tensor.dtype), tuple(tensor.shape), digest))
    return dict(found)


def _config(question: Question) -> Any:
    from vllm.config.load import LoadConfig

    return LoadConfig(
        load_format=question.load_format,
        download_dir=question.download_dir,
        use_tqdm_on_load=False,
    )


def _model_config(question: Question) -> Any:
    return SimpleNamespace(model=question.model, revision=question.revision, multimodal_config=None)


def _model(question: Question) -> Any:
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    model = SimpleNamespace()
    if question.patterns is not None:
        model.allow_patterns_overrides = list(question.patterns)
    if question.no_pt:
        model.fall_back_to_pt_during_load = False
    if question.unused:
        model.is_unused_checkpoint_weight = lambda name: name.startswith(question.unused)
    if question.secondary:
        model.secondary_weights = [
            DefaultModelLoader.Source(
                model_or_path=one.model,
                revision=one.revision,
                subfolder=one.subfolder,
                prefix=one.prefix,
                allow_patterns_overrides=None if one.patterns is None else list(one.patterns),
            )
            for one in question.secondary
        ]
    return model


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, more):
        yield


def can_import(folder: str) -> None:
    """From now on packages in `folder` can be imported."""
    sys.path.insert(0, folder)


def without_modelscope(question: Question) -> Answer:
    """`look`, where the package is not installed."""
    names = ("modelscope", "modelscope.hub", "modelscope.hub.snapshot_download")
    with mock.patch.dict(sys.modules, dict.fromkeys(names)):
        return look(question)


# What may happen in between. Each returns whether vLLM's functions are its own again.


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
    one, other = _loader(first), _loader(second)
    tensors = _weights(one, first)
    next(iter(tensors))
    left = replaced()
    _ask(second)
    _read(other, second)
    for _ in tensors:
        pass
    return left, _answer_of(one), _answer_of(other)


def given_up(question: Question) -> list[str]:
    """A model that takes one tensor and fails; what is replaced afterwards, the loader still
    around."""
    loader = _loader(question)
    tensors = _weights(loader, question)
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
            _ask(question)
        except IdentityError as error:
            said = str(error)
        with suppress(ZeroDivisionError):
            _read(_loader(question), question)
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
    asked, loader = _ask(question), _loader(question)
    return asked, _read(loader, question), loader.read


def read_twice(question: Question, other: bytes) -> tuple[bool, bool, list[str]]:
    """Read, overwrite the only file, and read again with the same loader, as `reload_weights` does.

    Whether each time what was read is what is there then.
    """
    from netloader.checkpoint import evidence

    loader = _loader(question)
    found = []
    for _ in range(2):
        _read(loader, question)
        read = loader.read
        found.append(read is not None and evidence.changed_since(read.stamps) is None)
        before = read
        Path(question.model, "model.safetensors").write_bytes(other)
        assert before is not None
        found.append(evidence.changed_since(before.stamps) is not None)
    return all(found[::2]), all(found[1::2]), replaced()


def _answer_of(loader: Any) -> Answer:
    read = loader.read
    return Answer(files=tuple((str(file.path), file.prefix) for file in read.files))


# Other releases of vLLM.


def in_a_release(kind: str, question: Question) -> Answer:
    """`look`, where vLLM's loader is written another way."""
    with _RELEASES[kind]():
        return look(question)


@contextmanager
def _three_and_no_subfolder() -> Iterator[None]:
    """Before 0.30 the name of the index was not told; long before, there were no subfolders."""
    from vllm.model_executor.model_loader import default_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    now = DefaultModelLoader._prepare_weights

    def prepare(
        self: Any,
        model_name_or_path: str,
        revision: str | None,
        fall_back_to_pt: bool,
        allow_patterns_overrides: list[str] | None,
    ) -> tuple[str, list[str], bool]:
        found = now(
            self, model_name_or_path, None, revision, fall_back_to_pt, allow_patterns_overrides
        )
        return found[:3]  # type: ignore[no-any-return]

    def iterate(self: Any, source: Any) -> Any:
        _, files, use_safetensors = self._prepare_weights(
            source.model_or_path,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        assert use_safetensors
        pairs = default_loader.safetensors_weights_iterator(files, False)
        return ((source.prefix + name, tensor) for name, tensor in pairs)

    with (
        mock.patch.object(DefaultModelLoader, "_prepare_weights", prepare),
        mock.patch.object(DefaultModelLoader, "_get_weights_iterator", iterate),
    ):
        yield


@contextmanager
def _another_parameter() -> Iterator[None]:
    from vllm.model_executor.model_loader import default_loader, weight_utils

    def iterator(paths: list[str], *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from weight_utils.safetensors_weights_iterator(paths, *args, **kwargs)

    with mock.patch.object(default_loader, "safetensors_weights_iterator", iterator):
        yield


@contextmanager
def _reads_by_itself() -> Iterator[None]:
    """Without the functions that we know, and not before the first tensor is wanted."""
    from safetensors.torch import load_file
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    def iterate(self: Any, source: Any) -> Iterator[Any]:
        _, files, *_ = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        for file in files:
            for name, tensor in load_file(file).items():
                yield source.prefix + name, tensor

    with mock.patch.object(DefaultModelLoader, "_get_weights_iterator", iterate):
        yield


@contextmanager
def _says_it_in_another_way() -> Iterator[None]:
    from vllm.model_executor.model_loader import default_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    now = DefaultModelLoader._prepare_weights

    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(files=now(self, *args, **kwargs)[1])

    def iterate(self: Any, source: Any) -> Any:
        files = self._prepare_weights(source.model_or_path, None, None, True, None).files
        return default_loader.safetensors_weights_iterator(files, False)

    with (
        mock.patch.object(DefaultModelLoader, "_prepare_weights", prepare),
        mock.patch.object(DefaultModelLoader, "_get_weights_iterator", iterate),
    ):
        yield


_RELEASES: Mapping[str, Callable[[], Any]] = {
    "three and no subfolder": _three_and_no_subfolder,
    "another parameter": _another_parameter,
    "reads by itself": _reads_by_itself,
    "says it in another way": _says_it_in_another_way,
}


if __name__ == "__main__":
    # By its name, so that what is pickled there is found here.
    from tests.e2e import selector

    selector.main()
