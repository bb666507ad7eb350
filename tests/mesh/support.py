"""Real members for tests: in this process, and in processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fastest import HANG_S
from tests.forked import ForkedProcess, answer, start_mesh, tell

import netmesh

WORKER = Path(__file__).with_name("worker.py")
MESH_ROOT = Path(netmesh.__file__).parents[1]


def until(done: Callable[[], object], timeout_s: float = HANG_S) -> float:
    """Wait for something that can be seen; returns the seconds it took."""
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < timeout_s, "did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - started


def another_users(path: Path) -> tuple[Path, int]:
    """A directory that belongs to another user than this one, and that user."""
    if os.geteuid() != 0:
        return Path("/"), 0
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    return path, 12345


class MemberProcess:
    """A member in a process of its own (see worker.py)."""

    def __init__(
        self,
        settings: dict[str, object],
        advert: object = None,
        *,
        log: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        arguments = json.dumps(settings), json.dumps(advert or {})
        self.process: subprocess.Popen[str] | ForkedProcess
        with log.open("ab") as errors:
            if prefix:
                self.process = subprocess.Popen(
                    [*prefix, sys.executable, str(WORKER), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, "PYTHONPATH": str(MESH_ROOT)},
                    text=True,
                )
            else:
                self.process = start_mesh("tests.mesh.worker", *arguments, stderr=errors)
        self._log = log
        self._hello: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        return str(self._said_hello()["id"])

    @property
    def pid(self) -> int:
        return int(self._said_hello()["pid"])

    def ask(self, command: str, timeout_s: float = HANG_S) -> Any:
        self._said_hello()
        self.tell(command)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = HANG_S) -> Any:
        """The next line that it prints, as a value."""
        return self._read(timeout_s)

    def tell(self, command: str) -> None:
        tell(self.process, command)

    def statuses(self) -> dict[str, str]:
        return {member: entry[0] for member, entry in self.ask("members").items()}

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """However it stands, it is gone afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def _said_hello(self) -> dict[str, Any]:
        if self._hello is None:
            self._hello = self._read(HANG_S)
        return self._hello

    def _read(self, timeout_s: float) -> Any:
        line = answer(self.process, timeout_s)
        assert line, f"no answer: {self._log.read_text()[-2000:]}"
        return json.loads(line)
