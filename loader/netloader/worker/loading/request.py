"""What is to be loaded, by whom, and what only the engine can say of it or do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted
from netloader.identity.identity import Fields, Identity, Names, Role
from netloader.system.memory import Available
from netloader.worker.process import Worker


class EngineModel(Protocol):
    """The engine's side of one load."""

    def identity(self) -> Identity:
        """Which weights are needed, as far as it is known before the model is built. Raises
        `IdentityError`."""

    def device_type(self) -> str:
        """Of the device that the model is built on, as torch calls it."""

    def built_parts(self, model: nn.Module) -> Fields:
        """Parts of the identity that the built model tells. Raises `IdentityError`."""

    def wanted(self, model: nn.Module) -> Wanted:
        """The content that the built model needs. Raises `IdentityError` when that is not known."""

    def wanted_by_class(self) -> Wanted:
        """The same as the model's class tells before there is a model, which may not be all. Raises
        `IdentityError`."""

    def load_from_storage(self, model: nn.Module) -> None:
        """Fill the model the ordinary way. Raises what the engine raises."""

    def files_read(self) -> Files | None:
        """What `load_from_storage` has read; None when that is not known."""

    def commit(self, model: nn.Module) -> str | None:
        """The commit that its checkpoint is said to be."""

    def opened_beyond(self, covered: Files | None) -> list[str]:
        """Files that were opened since the model was begun, may hold weights, and are not among
        those that are covered."""

    def host_memory(self) -> tuple[Available | None, int]:
        """What host memory is left, and how much of it the engine will take besides weights, in
        bytes."""

    @property
    def cache(self) -> HostCache | None:
        """What is remembered of files on this host."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model to be loaded by one worker."""

    worker: Worker
    engine: EngineModel
    names: Names
    role: Role
    use_tqdm: bool
    """Whether the first rank shows a progress bar."""
