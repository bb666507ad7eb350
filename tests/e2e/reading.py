"""Which files vLLM would read, as we say beforehand, and which ones it reads then.

In the process of a `Selector`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

    from netloader.checkpoint.wanted import Files


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
            files = ask(question)
            answer = Answer(
                files=tuple((str(file.path), file.prefix) for file in files.files),
                full=evidence.full(files.files),
                sample=evidence.sample(files.files),
            )
        except IdentityError as error:
            answer = Answer(refused=type(error).__name__, why=str(error))
        commit = identify.commit_of(_model(question), _model_config(question), _config(question))
        answer = replace(answer, commit=commit)
        loader = loader_for(question)
        try:
            tensors = read(loader, question)
        except Exception as error:  # noqa: BLE001
            return replace(answer, error=repr(error))
    done = loader.read
    return replace(
        answer,
        tensors=tensors,
        as_asked=done == files,
        beyond=tuple(map(str, watched.beyond(done.paths, done.folders))) if done else (),
    )


def ask(question: Question) -> Files:
    from netloader.engine import storage

    return storage.ask(_config(question), _model(question), _model_config(question))


def loader_for(question: Question) -> Any:
    from netloader.engine.storage import StorageLoader

    return StorageLoader(_config(question))


def weights_of(loader: Any, question: Question) -> Iterator[tuple[str, torch.Tensor]]:
    return loader.get_all_weights(_model_config(question), _model(question))  # type: ignore[no-any-return]


def read(loader: Any, question: Question) -> Tensors:
    """With vLLM's own iterator."""
    import torch

    found: Tensors = defaultdict(list)
    for name, tensor in weights_of(loader, question):
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
