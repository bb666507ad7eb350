"""A live source among strangers of every kind, with and without the key, at all of its ports.

Replicas pull meanwhile, the process answers requests, and a neighbour in the mesh watches. The
suite runs 15 s of it, `make soak` ten minutes (`NETLOADER_TEST_SOAK_S`).
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.forked import answer, start_loader, tell
from tests.loader.ports import open_descriptors
from tests.loader.source.soak_process import SEED
from tests.loader.source.strangers import Strangers
from tests.loader.support import equal, pull_from, pull_into, toy_weights, until

from netloader.config import Config
from netloader.discovery.candidate import Candidate
from netloader.errors import NetloaderError
from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend
from netloader.worker.position import Position
from netloader.worker.process import Worker
from netmesh import SocketSecurity, generate_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SOAK_S: Final = float(os.environ.get("NETLOADER_TEST_SOAK_S", "15"))
LIMIT: Final = 1024
PULL_EVERY_S: Final = 0.5
ASK_EVERY_S: Final = 0.25
MEMORY_MIB: Final = 48
"""What the process may hold more than before: memory that libraries keep for the next connection
(glibc gives each thread an arena of its own), and does not grow with time."""


class Soaked:
    """The source's process, with 1,024 descriptors at most."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.process = start_loader(
            "tests.loader.source.soak_process", json.dumps(settings), descriptors=LIMIT
        )
        said = json.loads(answer(self.process))
        self.id: str = said["id"]
        self.endpoint: str = said["endpoint"]
        self.answered_s: list[float] = []
        """How long each request took."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def ask(self, number: int) -> None:
        """One request to the model. Raises AssertionError when no answer comes, or a wrong one."""
        asked = time.monotonic()
        tell(self.process, str(number))
        assert answer(self.process) == f"{number}\n", "the model does not answer"
        self.answered_s.append(time.monotonic() - asked)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.close()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "key"
    file.write_text(generate_key())
    file.chmod(0o600)
    return {
        "MESH_NAME": f"soak-{os.getpid()}",
        "MESH_DIRECTORY": str(tmp_path / "mesh"),
        "MESH_ADVERTISE": "127.0.0.1",
        "MESH_KEY_FILE": str(file),
    }


@pytest.fixture
def source(settings: dict[str, str]) -> Iterator[Soaked]:
    made = Soaked(settings)
    yield made
    made.end()


@pytest.fixture
def neighbour(settings: dict[str, str]) -> Iterator[Worker]:
    worker = Worker(Config.load(settings, {}), Position.alone(1))
    yield worker
    worker.close()


class Replicas:
    """Pulls one after the other, over TCP and Gloo in turn."""

    def __init__(self, source: Soaked, worker: Worker) -> None:
        self.whole = 0
        self.failed: list[str] = []
        self._source = source
        self._worker = worker
        self._expected = toy_weights(SEED)

    def pull(self) -> bool:
        """Whether a whole pull succeeds; its bytes are right if so."""
        mine = toy_weights()
        backend = (TcpBackend, GlooBackend)[(self.whole + len(self.failed)) % 2]()
        pull = pull_into(mine, backend=backend, security=lambda: self._worker.sources.security)
        try:
            pull_from(pull, Candidate(self._source.endpoint, "test"))
        except NetloaderError as error:
            self.failed.append(str(error))
            return False
        assert equal(mine, self._expected)
        self.whole += 1
        return True


def repeat(
    every_s: float, until_s: float, action: Callable[[], object], errors: list[BaseException]
) -> None:
    """Call `action` about this often until that time; the first error ends it."""
    pause = threading.Event()
    try:
        while time.monotonic() < until_s:
            action()
            pause.wait(every_s)
    except BaseException as error:  # noqa: BLE001 - the test raises it
        errors.append(error)


def test_strangers_of_every_kind_end_and_hold_nothing(
    source: Soaked, neighbour: Worker, settings: dict[str, str]
) -> None:
    def status() -> str:
        members = {one.id: one.status.name for one in neighbour.membership.members()}
        return members.get(source.id, "unknown")

    until(lambda: status() == "ALIVE")
    replicas = Replicas(source, neighbour)
    for _ in range(4):  # both backends, and whatever is made once
        assert replicas.pull(), replicas.failed
        source.ask(0)
    descriptors, memory = open_descriptors(source.pid), source.memory_mib
    mesh_port, control_port = (int(at.rpartition(":")[2]) for at in (source.id, source.endpoint))
    mesh_settings = Config.load(settings, {}).mesh_settings
    guarded = {
        mesh_port: SocketSecurity.from_settings(mesh_settings),
        control_port: neighbour.sources.security,
    }
    numbers = iter(range(1, 1 << 30))
    seen: set[str] = set()
    most = [0]
    errors: list[BaseException] = []

    def watch() -> None:
        seen.add(status())
        most[0] = max(most[0], open_descriptors(source.pid))
        assert source.process.poll() is None, "the source's process has ended"

    end = time.monotonic() + SOAK_S
    with Strangers(source.pid, guarded) as strangers:
        threads = [
            threading.Thread(target=repeat, args=(every_s, end, action, errors))
            for every_s, action in (
                (PULL_EVERY_S, replicas.pull),
                (ASK_EVERY_S, lambda: source.ask(next(numbers))),
                (ASK_EVERY_S, watch),
            )
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors, errors
    until(replicas.pull)
    until(lambda: open_descriptors(source.pid) <= descriptors + 4)
    took = sorted(source.answered_s)
    print(
        f"{SOAK_S:g} s: {sum(strangers.came.values())} strangers {dict(strangers.came)} at "
        f"{len(strangers.ports)} ports; {replicas.whole} pulls whole, {len(replicas.failed)} not "
        f"{sorted(set(replicas.failed))[:3]}; {len(took)} requests answered, median "
        f"{statistics.median(took) * 1000:.1f} ms, p99 {took[len(took) * 99 // 100] * 1000:.0f} ms,"
        f" longest {took[-1] * 1000:.0f} ms; descriptors {descriptors}, {most[0]} at most, "
        f"{open_descriptors(source.pid)} at the end; memory {memory:.0f} MiB, "
        f"{source.memory_mib:.0f} at the end; the neighbour saw {sorted(seen)}"
    )
    assert seen <= {"ALIVE", "STALLED", "SUSPECT"} and "ALIVE" in seen
    until(lambda: status() == "ALIVE")
    assert source.memory_mib <= memory + MEMORY_MIB
    assert len(strangers.ports) > len(guarded), "no stranger came to a rendezvous"
    assert most[0] < LIMIT
    assert replicas.whole > len(replicas.failed)
