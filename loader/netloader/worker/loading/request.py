"""What to load, for which worker, and what only the engine can say about the model or do with
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from netloader.checkpoint.hostcache import HostCache
from netloader.checkpoint.wanted import Files, Wanted
from netloader.identity.identity import Fields, Identity, Names, Role
from netloader.system.memory import Available
from netloader.upstream.group import OrderedCarrier
from netloader.worker.process import Worker


class EngineModel(Protocol):
    """The engine's side of one load."""

    def identity(self) -> Identity:
        """Which weights are needed, as far as the engine knows before the model is built. Raises
        `IdentityError`."""

    def device_type(self) -> str:
        """Type of the device that the model is built on, as torch calls it."""

    def built_parts(self, model: nn.Module) -> Fields:
        """Parts of the identity that the built model tells. Raises `IdentityError`."""

    def processed_parts(self, model: nn.Module) -> Fields:
        """Further parts that decide how post-processing lays out the built model. Raises
        `IdentityError`."""

    def wanted(self, model: nn.Module) -> Wanted:
        """The content that the built model needs. Raises `IdentityError` when it is not known."""

    def wanted_by_class(self) -> Wanted:
        """The content that the model's class tells before there is a model, which may be
        incomplete. Raises `IdentityError`."""

    def load_from_storage(self, model: nn.Module) -> None:
        """Fill the model in the ordinary way. Raises what the engine raises."""

    def share_read(self) -> float:
        """How much of the files `load_from_storage` has read so far, from 0 to 1. Any thread may
        ask."""

    def upstream_carrier(self) -> OrderedCarrier | None:
        """What carries the model's tensors between vLLM Ascend's own Netloader and this worker;
        None where nothing does."""

    def load_sample(self, model: nn.Module, files: Files) -> int:
        """Load some of the tensors of `files` into the model, and return their size in bytes.
        Raises `IdentityError` when they cannot be read one by one, and what the engine raises."""

    def files_read(self) -> Files | None:
        """The files that `load_from_storage` has read; None when they are not known."""

    def commit(self, model: nn.Module) -> str | None:
        """The commit that the model's checkpoint is said to come from."""

    def opened_beyond(self, covered: Files | None) -> list[str]:
        """Files opened since the build began that may hold weights and are not in `covered`."""

    def host_memory(self) -> tuple[Available | None, int]:
        """The host memory that is left, and how much of it the engine will need besides weights, in
        bytes."""

    @property
    def cache(self) -> HostCache | None:
        """What earlier loads on this host remember about files."""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model to be loaded by one worker."""

    worker: Worker
    engine: EngineModel
    names: Names
    role: Role
    shows_progress: bool
    """Whether this worker shows how far it is, as the engine's own loaders would here."""
