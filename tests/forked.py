"""Processes of their own whose imports are done: forked from one that imports them once.

An interpreter that imports vLLM takes fifteen seconds of a core, one that imports torch three, and
one that imports the mesh half a second. `start` costs milliseconds. Not for a test of what a new
interpreter does.

Run as `python -m tests.forked SOCKET MODULE...`, this is the process that is forked: it imports the
modules, starts no thread, and forks once for each request that comes over the socket.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import IO, Final, Protocol

from tests.fastest import HANG_S

ROOT: Final = Path(__file__).parents[1]

_REQUEST_BYTES: Final = 1 << 20

_PR_SET_PDEATHSIG: Final = 1
"""Linux, `prctl(2)`: the signal that a process gets when its parent ends."""


class Talker(Protocol):
    """A process that answers each line with one: forked, or a `subprocess.Popen`."""

    @property
    def stdin(self) -> IO[str]: ...

    @property
    def stdout(self) -> IO[str]: ...

    def kill(self) -> None: ...


def tell(process: Talker, line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


def answer(process: Talker, timeout_s: float = HANG_S) -> str:
    """The next line that a process prints; empty when it ends instead.

    A process that is silent for `timeout_s` is killed, so its output ends as well.
    """
    timer = Timer(timeout_s, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


class ForkedProcess:
    """A running module: the part of `subprocess.Popen` that tests use.

    It leads a process group, which has its number.
    """

    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str], status: int) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status
        """A pipe that says how the process ended."""

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

    def close(self) -> None:
        """Close its standard input and output."""
        self.stdin.close()
        self.stdout.close()


class Nursery:
    """The other end of a process that has imported some modules."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """`env` is the environment of the imports, by default this process's."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={
                    **(os.environ if env is None else env),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        module: str,
        *arguments: str,
        stdin: socket.socket | None = None,
        stderr: IO[bytes] | None = None,
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        descriptors: int | None = None,
    ) -> ForkedProcess:
        """Run a module as `python -m` does, by default with this process's environment.

        Its standard input is `stdin`, if that is given, and not the process's `stdin`. All that it
        writes goes to `output`, if that is given; then its `stdout` has nothing. It may have as
        many open files as `descriptors` says.
        """
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        status_read, status_write = os.pipe()
        errors = stderr.fileno() if stderr is not None else 2
        read = in_read if stdin is None else stdin.fileno()
        written = (out_write, errors) if output is None else (output.fileno(), output.fileno())
        environment = dict(os.environ if env is None else env)
        run = _Run(module, arguments, environment, str(cwd), descriptors)
        asked = json.dumps(asdict(run)).encode()
        socket.send_fds(self._socket, [asked], [read, *written, status_write])
        for descriptor in (in_read, out_write, status_write):
            os.close(descriptor)
        pid = int(self._socket.recv(100))
        return ForkedProcess(pid, os.fdopen(in_write, "w"), os.fdopen(out_read), status_read)

    def close(self) -> None:
        """End it, and every process of it that still runs."""
        self._socket.close()
        self._process.wait(HANG_S)


@dataclass(frozen=True)
class _Run:
    """What a child is to do."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    descriptors: int | None

    def begin(self) -> None:
        """Make this process what an interpreter with that environment would be."""
        # Its group is its own, so a signal to that of the tests does not reach it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(self.folder)
        if self.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        os.environ.clear()
        os.environ.update(self.environment)
        given = self.environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[1:1] = [folder for folder in given if folder and folder not in sys.path]
        importlib.invalidate_caches()
        sys.argv = [self.module, *self.arguments]


@functools.cache
def nursery(*modules: str) -> Nursery:
    """One for the whole test run: it ends when this process does."""
    return Nursery(modules)


def start_mesh(module: str, *arguments: str, stderr: IO[bytes] | None = None) -> ForkedProcess:
    """Run a module that needs the mesh."""
    return nursery("netmesh.mesh").start(module, *arguments, stderr=stderr)


def start_loader(
    module: str,
    *arguments: str,
    stderr: IO[bytes] | None = None,
    descriptors: int | None = None,
) -> ForkedProcess:
    """Run a module that needs the loader, or torch."""
    modules = ("tests.loader.support", "netloader.worker.process")
    return nursery(*modules).start(module, *arguments, stderr=stderr, descriptors=descriptors)


def _serve(requests: socket.socket) -> _Run | None:
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
                    # With what it has started itself.
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return None
            pid = os.fork()
            # Both do it: whoever comes first, nobody sees a child in another group.
            os.setpgid(pid, pid)
            if pid == 0:
                for target, descriptor in enumerate(descriptors[:3]):
                    os.dup2(descriptor, target)
                os.closerange(3, max([requests.fileno(), *descriptors, *ends, *_flat(ends)]) + 1)
                requests.detach()
                return _Run(**json.loads(asked))
            ends[os.pidfd_open(pid)] = pid, descriptors[3]
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            requests.send(str(pid).encode())


def _flat(ends: dict[int, tuple[int, int]]) -> list[int]:
    return [status for _, status in ends.values()]


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    # Whoever types Ctrl-C means the tests. What runs here ends when their socket does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.freeze()
    if (run := _serve(requests)) is not None:
        run.begin()
        runpy.run_module(run.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
