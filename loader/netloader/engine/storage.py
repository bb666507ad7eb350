"""Which files does this worker read from storage? vLLM is asked; nothing is guessed.

vLLM's loader chooses by load format, index, `consolidated*` files, overrides and secondary weights
of the model class, filters of the model class, and what happens to lie in the folder. All of that
is vLLM's own code, so that code is run. The loader is asked for all weights of the built model, and
where it would open files, their names are taken instead. Nothing is downloaded for that:
repositories are looked up in the Hub's cache.

The same loader later reads storage, and then notes what it really read (`Reading`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from torch import nn
from vllm import envs
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import default_loader, weight_utils
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from netloader.checkpoint import evidence
from netloader.checkpoint.evidence import Stamp, WeightFile
from netloader.checkpoint.opened import unheeded
from netloader.checkpoint.wanted import Files
from netloader.engine import versions
from netloader.errors import IdentityError, NotAtHand

_log = logging.getLogger(__name__)

NamedTensors = Generator[tuple[str, torch.Tensor], None, None]

_OPENERS = "_weights_iterator"
"""Suffix of the names of vLLM's functions that open files and yield their tensors."""


_SORTED = frozenset({"safetensors_weights_iterator", "fastsafetensors_weights_iterator"})
"""Those functions that sort the files they are given. Of two tensors with one name the later one
stays, and a folder lists its files in no particular order."""


@dataclass
class _Notes:
    """What a loader has been seen to choose."""

    files: list[WeightFile] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    """Stamps of these files, taken just before they were opened."""
    folders: set[Path] = field(default_factory=set)
    prefix: str = ""
    candidates: tuple[str, ...] = ()
    """Files that the loader prepared for the current source, in case it opens them in a way that is
    not recognised."""
    opened: bool = True
    """Whether the current source's files have been noted."""
    problem: str = ""
    """Why the files that were read are not known; empty when they are."""

    def prepared(self, found: object) -> None:
        """`found`: what vLLM prepared, which begins with the folder and its files."""
        match found:
            case (str(folder), [*files], *_):
                self.folders.add(Path(folder))
                self.candidates, self.opened = tuple(map(str, files)), False
            case _:
                self.problem = "this vLLM says in another way which files it reads"

    def note(self, files: Iterable[str]) -> None:
        self.opened = True
        chosen = [WeightFile(Path(file), self.prefix) for file in files]
        try:
            self.stamps += evidence.stamps(chosen)
        except IdentityError as error:
            # vLLM says what is wrong when it reads the file.
            self.problem = str(error)
        self.files += chosen

    def settle(self) -> None:
        """Take the prepared files where no call was seen to open them."""
        if not self.opened:
            self.note(self.candidates)

    def found(self) -> Files | None:
        self.settle()
        if not self.files or self.problem:
            return None
        return Files(tuple(self.files), frozenset(self.folders), tuple(self.stamps))


class StorageLoader(DefaultModelLoader):
    """vLLM's loader for files, which remembers what it reads."""

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        self._notes = _Notes()
        self._nbytes_read = 0

    @property
    def share_read(self) -> float:
        """How much of the files chosen so far has been read, from 0 to 1. Any thread may ask."""
        nbytes = sum(stamp.size for stamp in list(self._notes.stamps))
        return min(1.0, self._nbytes_read / nbytes) if nbytes else 0.0

    @property
    def read(self) -> Files | None:
        """The files that have been read. None when they are not known."""
        return self._notes.found()

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> NamedTensors:
        self._notes, self._nbytes_read = _Notes(), 0
        for name, tensor in super().get_all_weights(model_config, model):
            yield name, tensor
            self._nbytes_read += tensor.nbytes

    def _prepare_weights(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_weights(*args, **kwargs)
        self._notes.prepared(prepared)
        return prepared

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> NamedTensors:
        with self._noting(source, read=True):
            return super()._get_weights_iterator(source)  # type: ignore[no-any-return]

    @contextmanager
    def _noting(self, source: DefaultModelLoader.Source, *, read: bool) -> Iterator[None]:
        """Covers the time in which vLLM chooses the files of one source; vLLM reads them
        afterwards."""
        self._notes.settle()
        self._notes.prefix = source.prefix
        # To choose, vLLM looks into files that it may then pass over.
        with unheeded(), _openers(self._notes, read=read):
            yield


class _AskedLoader(StorageLoader):
    """A `StorageLoader` that reads no tensors and downloads nothing."""

    def missing(self) -> str | None:
        """The first chosen file that does not exist, such as a dangling link."""
        chosen = [str(file.path) for file in self._notes.files] + list(self._notes.candidates)
        return next((file for file in chosen if not Path(file).exists()), None)

    def why_not(self) -> str:
        return self._notes.problem or "vLLM reads no file that it tells of"

    def _prepare_weights(self, *args: Any, **kwargs: Any) -> Any:
        given = signature(DefaultModelLoader._prepare_weights).bind(self, *args, **kwargs)
        model = given.arguments["model_name_or_path"]
        folder = local_folder(model, given.arguments.get("revision"), self.load_config.download_dir)
        if folder is None:
            raise NotAtHand(f"{model} is not on this host")
        given.arguments |= {"model_name_or_path": str(folder), "revision": None}
        try:
            return super()._prepare_weights(*given.args[1:], **given.kwargs)
        except (RuntimeError, FileNotFoundError) as error:
            # No file is there, or the index names missing ones: a download did not finish.
            raise NotAtHand(str(error)) from None

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> NamedTensors:
        with self._noting(source, read=False):
            # It may begin with the first tensor only. There is none, except where it was not seen
            # to open its files: then there are more, which nobody needs.
            next(iter(DefaultModelLoader._get_weights_iterator(self, source)), None)
        yield from ()


def ask(load_config: LoadConfig, model: nn.Module, model_config: ModelConfig) -> Files:
    """The files that vLLM's loader would read to fill `model`. Reads no tensors.

    Raises `NotAtHand` when some of them are not on this host, `IdentityError` when vLLM cannot be
    asked.
    """
    plain = copy(load_config)
    plain.model_loader_extra_config = {}
    loader = _AskedLoader(plain)
    prepare = versions.later(loader, "_init_mm_encoder_only_weight_filter")
    try:
        if callable(prepare):
            prepare(model, model_config)
        for _ in loader.get_all_weights(model_config, model):
            pass
    except IdentityError:
        raise
    except Exception as error:
        _not_missing(loader)
        # A model class may compute its secondary weights, and another vLLM may choose differently.
        raise IdentityError(f"vLLM does not say which files it reads: {error!r}") from error
    found = loader.read
    if found is None:
        _not_missing(loader)
        raise IdentityError(loader.why_not())
    return found


def _not_missing(loader: _AskedLoader) -> None:
    missing = loader.missing()
    if missing is not None:
        raise NotAtHand(f"{missing} is missing")


def local_folder(model: str, revision: str | None, download_dir: str | None) -> Path | None:
    """Where vLLM would find a checkpoint on this host: the folder itself, or a snapshot in the
    cache of the hub in use (Hugging Face's or ModelScope's). None when this host has neither. Does
    not use the network."""
    if Path(model).is_dir():
        return Path(model)
    if envs.VLLM_USE_MODELSCOPE:
        return _modelscope_folder(model, revision)
    return _snapshot(model, revision, download_dir)


def _snapshot(model: str, revision: str | None, download_dir: str | None) -> Path | None:
    try:
        cached = try_to_load_from_cache(
            model, "config.json", cache_dir=download_dir, revision=revision
        )
        if isinstance(cached, str):
            return Path(cached).parent
        # Further repositories of a model may hold weights alone.
        return Path(
            snapshot_download(
                model, cache_dir=download_dir, revision=revision, local_files_only=True
            )
        )
    except (OSError, ValueError) as error:
        _log.debug("%s is not, or not all of it, in the Hub's cache: %s", model, error)
        incomplete = getattr(error, "snapshot_path", None)
        return Path(incomplete) if incomplete else None


def _modelscope_folder(model: str, revision: str | None) -> Path | None:
    """The folder in ModelScope's own cache: vLLM passes no `download_dir` to it for weights."""
    try:
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError:
        return None
    try:
        found = snapshot_download(model, revision=revision, local_files_only=True)
    except Exception as error:  # noqa: BLE001
        # ModelScope raises one of several errors for a model that is not in the cache.
        _log.debug("%s is not in ModelScope's cache: %s", model, error)
        return None
    return Path(found)


_patching = threading.RLock()
"""Only one thread at a time may replace vLLM's functions."""


@contextmanager
def _openers(notes: _Notes, *, read: bool) -> Iterator[None]:
    """Note the files that this thread passes to vLLM's functions, which also read them with `read`.

    vLLM calls these functions by their names in the module of its loader. They are replaced while
    vLLM chooses, not while it reads: a caller that takes tensors from a generator may stop, or load
    something else in between.
    """
    with _patching:
        originals = {
            name: value
            for name, value in vars(default_loader).items()
            if name.endswith(_OPENERS) and callable(value)
        }
        for name, original in originals.items():
            setattr(default_loader, name, _noted_opener(name, original, notes, read=read))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(default_loader, name, original)


def _noted_opener(
    name: str, original: Callable[..., NamedTensors], notes: _Notes, *, read: bool
) -> Callable[..., Any]:
    thread = threading.get_ident()

    @wraps(original)
    def opener(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        given = signature(original).bind(*args, **kwargs).arguments
        files = given.get("hf_weights_files")
        if "hf_folder" in given:
            # This function reads converted copies in the folder, not these files (`npcache`).
            notes.problem = f"{name} reads other files of the folder than those it is given"
        if files is not None:
            notes.note(_as_read(name, files))
        return original(*args, **kwargs) if read else iter(())

    return opener


def _as_read(opener: str, files: Sequence[str]) -> Sequence[str]:
    """The files in the order in which their tensors come."""
    return sorted(files, key=weight_utils._natural_sort_key) if opener in _SORTED else files
