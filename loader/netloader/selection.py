"""Which files does this worker's storage leg read? Asked from vLLM, not guessed.

vLLM's loader chooses by load format, index, `consolidated*` files, overrides and secondary weights
of the model class, filters of the model class, and what happens to lie in the folder. All of that
is its own code, so its own code is run: the loader is asked for all weights of the built model, and
where it would open files, their names are taken instead. Nothing is downloaded for that:
repositories are looked up in the Hub's cache.

The same loader reads storage later, and then notes what it really read (`Reading`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import default_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from netloader import content
from netloader.content import Stamp, WeightFile
from netloader.errors import IdentityError, NotAtHand
from netloader.wanted import Files

_log = logging.getLogger(__name__)

Weights = Generator[tuple[str, torch.Tensor], None, None]

_OPENERS = "_weights_iterator"
"""How the names of vLLM's functions end that open files and yield their tensors."""


@dataclass
class _Notes:
    """What a loader has been seen to choose."""

    files: list[WeightFile] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    """Of these files, from the moment before they were opened."""
    folders: set[Path] = field(default_factory=set)
    prefix: str = ""
    candidates: tuple[str, ...] = ()
    """What it had prepared for the present source, in case it opens them in a way that is not
    recognised."""
    opened: bool = True
    """Whether the present source's files have been noted."""

    def prepared(self, folder: str, files: Iterable[str]) -> None:
        self.folders.add(Path(folder))
        self.candidates, self.opened = tuple(files), False

    def note(self, files: Iterable[str]) -> None:
        self.opened = True
        chosen = [WeightFile(Path(file), self.prefix) for file in files]
        self.files += chosen
        self.stamps += content.stamps(chosen)

    def settle(self) -> None:
        """Take what was prepared where nothing was seen to open it."""
        if not self.opened:
            self.note(self.candidates)

    def found(self) -> Files | None:
        self.settle()
        if not self.files:
            return None
        return Files(tuple(self.files), frozenset(self.folders), tuple(self.stamps))


class StorageLoader(DefaultModelLoader):
    """vLLM's loader for files, which remembers what it reads."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._notes = _Notes()

    @property
    def read(self) -> Files | None:
        """What has been read. None when nothing was seen to be."""
        return self._notes.found()

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> Weights:
        self._notes = _Notes()
        with _openers(self._notes, read=True):
            yield from super().get_all_weights(model_config, model)

    def _prepare_weights(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_weights(*args, **kwargs)
        self._notes.prepared(prepared[0], prepared[1])
        return prepared

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> Weights:
        self._notes.settle()
        self._notes.prefix = source.prefix
        return super()._get_weights_iterator(source)  # type: ignore[no-any-return]


class _AskedLoader(StorageLoader):
    """The same, but it opens nothing and downloads nothing."""

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> Weights:
        self._notes = _Notes()
        with _openers(self._notes, read=False):
            yield from DefaultModelLoader.get_all_weights(self, model_config, model)

    def _prepare_weights(
        self, model_name_or_path: str, subfolder: Any, revision: Any, *args: Any, **kwargs: Any
    ) -> Any:
        folder = local_folder(model_name_or_path, revision, self.load_config.download_dir)
        if folder is None:
            raise NotAtHand(f"{model_name_or_path} is not on this host")
        try:
            return super()._prepare_weights(str(folder), subfolder, None, *args, **kwargs)
        except (RuntimeError, FileNotFoundError) as error:
            # None there, or the index names some that are missing: a download that did not end.
            raise NotAtHand(str(error)) from None


def ask(load_config: LoadConfig, model: nn.Module, model_config: ModelConfig) -> Files:
    """The files that vLLM's loader would read to fill `model`. Opens none of them.

    Raises `NotAtHand` when not all of them are on this host, `IdentityError` when vLLM cannot be
    asked.
    """
    plain = copy(load_config)
    plain.model_loader_extra_config = {}
    loader = _AskedLoader(plain)
    prepare = getattr(loader, "_init_mm_encoder_only_weight_filter", None)
    try:
        if prepare is not None:
            prepare(model, model_config)
        for _ in loader.get_all_weights(model_config, model):
            pass
    except IdentityError:
        raise
    except Exception as error:
        # A model class may compute its secondary weights, and another vLLM chooses otherwise.
        raise IdentityError(f"vLLM does not say which files it reads: {error!r}") from error
    found = loader.read
    if found is None:
        raise IdentityError("vLLM reads no file that it tells of")
    return found


def local_folder(model: str, revision: str | None, download_dir: str | None) -> Path | None:
    """Where a checkpoint lies on this host: the folder itself, a snapshot in the Hub's cache, or
    ModelScope's. None when it is not here. Asks no network."""
    if Path(model).is_dir():
        return Path(model)
    return _modelscope_folder(model, revision, download_dir) or _snapshot(
        model, revision, download_dir
    )


def _snapshot(model: str, revision: str | None, download_dir: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(
            model, "config.json", cache_dir=download_dir, revision=revision
        )
    except ValueError as error:
        # A name that is no repository id (a URL, say).
        _log.debug("%s is not in the Hub's cache: %s", model, error)
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _modelscope_folder(model: str, revision: str | None, download_dir: str | None) -> Path | None:
    from vllm import envs

    if not envs.VLLM_USE_MODELSCOPE:
        return None
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        return None
    try:
        found = snapshot_download(
            model, cache_dir=download_dir, revision=revision, local_files_only=True
        )
    except Exception as error:  # noqa: BLE001
        # Whatever it raises for a model that it does not have: then there is no folder.
        _log.debug("%s is not in ModelScope's cache: %s", model, error)
        return None
    return Path(found)


@contextmanager
def _openers(notes: _Notes, *, read: bool) -> Iterator[None]:
    """Note the files that vLLM's functions are called with; with `read` they read them, too.

    vLLM calls them by their names in the module of its loader, from the one thread that loads.
    """
    originals = {
        name: value
        for name, value in vars(default_loader).items()
        if name.endswith(_OPENERS) and callable(value)
    }
    for name, original in originals.items():
        setattr(default_loader, name, _noting(original, notes, read=read))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(default_loader, name, original)


def _noting(original: Callable[..., Weights], notes: _Notes, *, read: bool) -> Callable[..., Any]:
    parameters: Iterable[Parameter] = signature(original).parameters.values()
    names = [parameter.name for parameter in parameters]

    @wraps(original)
    def opener(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        files = given.get("hf_weights_files")
        if files is None:
            notes.settle()
        else:
            notes.note(files)
        return original(*args, **kwargs) if read else iter(())

    return opener
