"""Child processes of a benchmark, which carry out one command at a time.

A child is `python -m netbench.<module> <JSON>`. It reads one command a line from its standard input
and answers each with a line of JSON. When the input ends, so does the child. So a benchmark leaves
no process behind, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]

START_TIMEOUT_S = 180.0
_ANSWER_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 5.0


class ChildError(Exception):
    """A child ended or did not answer."""


class Child:
    """A child process, as its parent sees it."""

    def __init__(
        self,
        module: str,
        spec: Mapping[str, object],
        *,
        prefix: Sequence[str] = (),
        nice: int = 0,
        core: int | None = None,
    ) -> None:
        """Start `netbench.<module>` with `spec`. `prefix` is a command that runs it elsewhere;
        `core` is the only core that it may use."""
        command = [*prefix, sys.executable, "-m", f"netbench.{module}", json.dumps(spec)]
        if nice:
            command = ["nice", "-n", str(nice), *command]
        self._module = module
        self._unread = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={"TORCH_CPP_LOG_LEVEL": "ERROR"}
            | os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if core is not None:
            # Now, while the child has a single thread, whose affinity the others inherit.
            os.sched_setaffinity(self._process.pid, {core})

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, command: str, **arguments: object) -> None:
        """Send a command without waiting for its answer."""
        assert self._process.stdin is not None
        line = json.dumps({"command": command, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
        except OSError:
            raise ChildError(self._obituary()) from None

    def hear(self, timeout_s: float = _ANSWER_TIMEOUT_S) -> Json:
        """The child's next answer. Raises `ChildError`."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise ChildError(f"{self._module} said nothing for {timeout_s:g} s")
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                raise ChildError(self._obituary())
            self._unread += part
        line, self._unread = self._unread.split(b"\n", 1)
        answer: Json = json.loads(line)
        return answer

    def ask(self, command: str, **arguments: object) -> Json:
        """Send a command and wait for its answer. Raises `ChildError`."""
        self.tell(command, **arguments)
        return self.hear()

    def kill(self) -> None:
        """End the child at once with SIGKILL, as a crash would."""
        self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End the child, politely at first, and wait until it is gone. Idempotent."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        for insist in (None, signal.SIGTERM, signal.SIGKILL):
            if insist is not None:
                self._process.send_signal(insist)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_TIMEOUT_S)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        return f"{self._module} (pid {self.pid}) ended with status {self._process.returncode}"


def obey(commands: Mapping[str, Callable[..., Json | None]]) -> None:
    """A child's life: carry out commands until the input ends."""
    # Ctrl-C goes to every process of a terminal, and the parent decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        say(commands[request.pop("command")](**request) or {})


def say(answer: Json) -> None:
    """Send an answer from a child to its parent."""
    print(json.dumps(answer), flush=True)


@contextlib.contextmanager
def starting(children: Sequence[Child]) -> Iterator[list[Json]]:
    """Wait until all have given their first answer; end all of them afterwards."""
    try:
        yield [child.hear(START_TIMEOUT_S) for child in children]
    finally:
        for child in children:
            child.close()
