"""Processes of their own whose imports are done: forked from one that imports them once.

An interpreter that imports torch takes three seconds of a core, and one that imports the mesh half
a second. `start` costs milliseconds. Not for a test of what a new interpreter does.

Run as `python -m tests.forked SOCKET MODULE...`, this is the process that is forked: it imports the
modules, starts no thread, and forks once for each request that comes over the socket.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from tests.fastest import HANG_S

ROOT: Final = Path(__file__).parents[1]

_REQUEST_BYTES: Final = 1 << 20


class Fork:
    """A running module: the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        """A pipe that says how the process ended."""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """How it ended, as `Popen` says it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float = HANG_S) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout_s)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s)
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode


class ForkedProcess(Fork):
    """One with pipes to its standard input and output."""

    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str], status: int) -> None:
        super().__init__(pid, status)
        self.stdin = stdin
        self.stdout = stdout

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None:
            self.kill()
        self.wait()

    def close(self) -> None:
        """Close its standard input and output."""
        self.stdin.close()
        self.stdout.close()


class Nursery:
    """The other end of a process that has imported some modules."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """`env` is what the modules are imported with, by default this process's environment."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**(os.environ if env is None else env), **path},
                pass_fds=[theirs.fileno()],
            )

    def start(self, module: str, *arguments: str, stderr: IO[bytes] | None = None) -> ForkedProcess:
        """Run a module as `python -m` does, with this process's environment."""
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        errors = stderr.fileno() if stderr is not None else 2
        pid, status = self._fork(module, arguments, (in_read, out_write, errors), os.environ, False)
        os.close(in_read)
        os.close(out_write)
        return ForkedProcess(pid, os.fdopen(in_write, "w"), os.fdopen(out_read), status)

    def start_apart(
        self, module: str, argument: str, stdin: int, output: int, env: Mapping[str, str]
    ) -> Fork:
        """Run a module in a session of its own, with two descriptors and an environment of its own.
        What it imported before knows nothing of that environment."""
        return Fork(*self._fork(module, (argument,), (stdin, output, output), env, True))

    def _fork(
        self,
        module: str,
        arguments: Sequence[str],
        streams: tuple[int, int, int],
        env: Mapping[str, str],
        leads: bool,
    ) -> tuple[int, int]:
        """The number of a new process, and a descriptor that tells how it ended."""
        status_read, status_write = os.pipe()
        asked = json.dumps([module, arguments, dict(env), leads]).encode()
        socket.send_fds(self._socket, [asked], [*streams, status_write])
        os.close(status_write)
        return int(self._socket.recv(100)), status_read

    def close(self) -> None:
        """End it, and every process of it that still runs."""
        self._socket.close()
        self._process.wait(HANG_S)


@functools.cache
def nursery(*modules: str) -> Nursery:
    """One for the whole test run: it ends when this process does."""
    return Nursery(modules)


def start_mesh(module: str, *arguments: str, stderr: IO[bytes] | None = None) -> ForkedProcess:
    """Run a module that needs the mesh."""
    return nursery("netmesh").start(module, *arguments, stderr=stderr)


def start_loader(module: str, *arguments: str, stderr: IO[bytes] | None = None) -> ForkedProcess:
    """Run a module that needs the loader, or torch."""
    modules = ("tests.loader.support", "netloader.worker.process")
    return nursery(*modules).start(module, *arguments, stderr=stderr)


def _serve(requests: socket.socket) -> tuple[str, list[str]] | None:
    """Fork for each request. Returns what to run in each child, and None when nobody asks more."""
    ends: dict[int, tuple[int, int]] = {}
    """Of each child, by a descriptor of it: its number, and where to tell how it ended."""
    while True:
        for ready in select.select([requests, *ends], [], [])[0]:
            if ready is not requests:
                pid, status = ends.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):
                    os.write(status, str(code).encode())
                os.close(status)
                os.close(ready)
                continue
            asked, descriptors, *_ = socket.recv_fds(requests, _REQUEST_BYTES, 4)
            if not asked:
                for pid, _ in ends.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return None
            pid = os.fork()
            if pid == 0:
                for target, descriptor in enumerate(descriptors[:3]):
                    os.dup2(descriptor, target)
                os.closerange(3, max([requests.fileno(), *descriptors, *ends, *_flat(ends)]) + 1)
                requests.detach()
                module, arguments, environment, leads = json.loads(asked)
                if leads:
                    os.setsid()
                os.environ.clear()
                os.environ.update(environment)
                return module, arguments
            ends[os.pidfd_open(pid)] = pid, descriptors[3]
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            requests.send(str(pid).encode())


def _flat(ends: dict[int, tuple[int, int]]) -> list[int]:
    return [status for _, status in ends.values()]


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.freeze()
    if (run := _serve(requests)) is not None:
        module, arguments = run
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
