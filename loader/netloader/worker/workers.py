"""The workers of one process, one for each engine that it runs.

Most processes load a target and perhaps a draft, and have one worker. A notebook makes one model
after the other, or two at once, each under settings of its own. A worker therefore serves one model
of each role at a time: a further target gets a worker, and a place in the mesh, of its own. When a
model is gone, its weights are withdrawn, and a worker without a model leaves the mesh.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from netloader.config import Config
from netloader.identity.identity import Role
from netloader.system import affinity
from netloader.worker.position import Position
from netloader.worker.process import Worker

_log = logging.getLogger(__name__)

_RELEASE_S: Final = 5.0
"""Seconds that a model waits for the end of one before it, which takes a second or two."""


@dataclass
class _Tenancy:
    """A worker, and the models that it has."""

    worker: Worker
    roles: set[Role] = field(default_factory=set)


class Workers:
    """Makes a worker when a model needs one, and ends it when the last of its models is gone.
    Thread safe.

    A forked child gets workers of its own: sockets and threads of its parent's do not survive.
    """

    def __init__(
        self,
        make: Callable[[Config, Position], Worker] = Worker,
        process_id: Callable[[], int] = os.getpid,
    ) -> None:
        self._make = make
        self._process_id = process_id
        self._lock = threading.Lock()
        self._pid = process_id()
        self._engines: list[_Tenancy] = []
        self._chosen: Worker | None = None
        self._releasing: list[threading.Thread] = []
        self._models = weakref.WeakKeyDictionary[nn.Module, Worker]()

    def claim(self, config: Config, position: Position, role: Role) -> Worker:
        """The worker for one more model of these settings. `release` or `follow` it later."""
        for thread in self._releasing:
            thread.join(_RELEASE_S)  # It may hold the ports that this model is to have.
        with self._lock:
            self._releasing = [thread for thread in self._releasing if thread.is_alive()]
            if self._pid != self._process_id():
                self._pid, self._engines, self._chosen = self._process_id(), [], None
            if self._chosen is not None:
                return self._chosen
            for engine in self._engines:
                alike = (engine.worker.config, engine.worker.position) == (config, position)
                if alike and role not in engine.roles:
                    engine.roles.add(role)
                    return engine.worker
            if self._engines:
                _log.info(
                    "this process already has %d models of other settings or of the same role: "
                    "this one joins the mesh as a member of its own",
                    len(self._engines),
                )
            made = _Tenancy(self._make(config, position), {role})
            self._engines.append(made)
            return made.worker

    def follow(self, worker: Worker, role: Role, model: nn.Module) -> None:
        """Release what `claim` gave when nobody holds `model` any more."""
        with self._lock:
            self._models[model] = worker
        gone = weakref.finalize(model, self._model_is_gone, worker, role)
        gone.atexit = False  # The worker leaves the mesh by itself then.

    def worker_of(self, model: nn.Module) -> Worker | None:
        """The worker that serves `model`; None when there is none."""
        with self._lock:
            return self._chosen or self._models.get(model)

    def release(self, worker: Worker, role: Role) -> None:
        """Undo a `claim`: forget the model, and leave the mesh if it was the worker's last."""
        with self._lock:
            engine = next((one for one in self._engines if one.worker is worker), None)
            if engine is None:
                return  # Somebody else ends this worker.
            engine.roles.discard(role)
            last = not engine.roles
            if last:
                self._engines.remove(engine)
        worker.release(role)
        if last:
            worker.close()

    def swap(self, worker: Worker | None) -> Worker | None:
        """Let `worker` serve all models from now on; with None the next `claim` makes one. Returns
        the worker of before, which the caller ends.

        For a program that plays several processes, and loads a model for each.
        """
        with self._lock:
            before = self._chosen or (self._engines[-1].worker if self._engines else None)
            self._engines, self._chosen = [], worker
            return before

    def _model_is_gone(self, worker: Worker, role: Role) -> None:
        if self._pid != self._process_id():
            return  # It was the parent's.
        # The garbage collector calls this in any thread, which may hold any lock.
        thread = threading.Thread(
            target=self.release, args=(worker, role), name=f"{affinity.OURS}release", daemon=True
        )
        self._releasing.append(thread)
        thread.start()


WORKERS = Workers()
"""This process's workers."""
