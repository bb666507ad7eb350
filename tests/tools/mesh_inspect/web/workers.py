"""Eight real workers on as many addresses of loopback, two of which have the weights."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.forked import ForkedProcess, answer, nursery, tell

from netbench.common import IDENTITY
from netbench.task import Task

WORKERS: Final = 8
SOURCES: Final = (1, 2)

TASK: Final = Task("llama", 48 << 20, 1 << 20)

RATE: Final = 1 << 20
"""Bytes a second that a worker hands out at most: a pull takes a minute unless it is a swarm."""

MODEL: Final = IDENTITY.model


def host(number: int) -> str:
    """The address of a worker; the first is 1."""
    return f"127.0.0.{10 + number}"


class RealWorkers:
    """The processes. Each is a member of a real mesh; what it publishes is what a worker does."""

    def __init__(self, processes: dict[int, ForkedProcess], mesh: str, key: str, seed: str) -> None:
        self._processes = processes
        self.mesh = mesh
        self.seed = seed
        self.env = {"NETLOADER_MESH_KEY": key}
        """What `mesh-inspect` needs to be let in."""

    def tell(self, number: int, command: str, **arguments: object) -> None:
        """Have a worker carry out a command, and do not wait for its answer."""
        tell(self._processes[number], json.dumps({"command": command, **arguments}))

    def ask(self, number: int, command: str, **arguments: object) -> dict[str, object]:
        """The answer to a command."""
        self.tell(number, command, **arguments)
        found: dict[str, object] = json.loads(answer(self._processes[number]))
        return found

    def pull(self, *numbers: int) -> None:
        """Have these workers pull, and hand out what they have, as a swarm does."""
        for number in numbers:
            self.tell(number, "pull", policy="swarm")

    def signal(self, number: int, what: signal.Signals) -> None:
        """Stop, continue or kill a worker."""
        self._processes[number].send_signal(what)


@contextmanager
def real_workers(logs: Path, *, rate: int = RATE) -> Iterator[RealWorkers]:
    """Start all of them. Two serve; the others do nothing yet."""
    mesh, key = f"web-{os.getpid()}", secrets.token_hex(32)
    nest = nursery("netbench.task", "netloader.worker.process")
    seed = f"{host(1)}:17946"
    processes: dict[int, ForkedProcess] = {}
    with ExitStack() as stack:
        for number in range(1, WORKERS + 1):
            spec = TASK.spec(
                host=host(number),
                key=key,
                seeds=[seed],
                settings={"MESH_NAME": mesh, "RATE_LIMIT": rate, "MESH_PORT": 17946},
            )
            log = stack.enter_context((logs / f"{number}.log").open("wb"))
            process = nest.start("netbench.member_process", json.dumps(spec), stderr=log)
            stack.callback(process.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes[number] = process
        for number, process in processes.items():
            said = answer(process)
            assert said, (logs / f"{number}.log").read_text()
        workers = RealWorkers(processes, mesh, key, seed)
        for number in SOURCES:
            workers.ask(number, "serve")
        try:
            yield workers
        finally:
            for number in processes:
                workers.signal(number, signal.SIGCONT)
