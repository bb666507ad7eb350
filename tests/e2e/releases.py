"""vLLM's loader as other releases of it are written.

In the process of a `Selector`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.e2e.reading import Answer, Question, look


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
