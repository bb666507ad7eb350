"""Processes of a test: started, asked, and always ended.

Each is forked from a process that has imported torch_npu, and vLLM where the module needs it: the
imports take up to half a minute. That process has touched no device, and read no environment
variable that a test sets.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.ascend.channel import Channel, Ended
from tests.e2e.servers import isolated_environment
from tests.fastest import HANG_S
from tests.forked import Nursery

ANSWER_S: Final = HANG_S
"""How long anything but a start may take, on a machine that is busy with other things."""
START_S: Final = 2 * HANG_S
"""How long imports and a model may take there."""
_END_S: Final = 30.0

_TRANSFER: Final = ("tests.loader.support", "netloader.replica.upstream", "torch_npu")
_VLLM: Final = (
    *_TRANSFER,
    "fakecann.for_vllm",
    "vllm.engine.arg_utils",
    "vllm.model_executor.models.llama",
    "vllm_ascend.model_loader.netloader",
    "vllm_ascend.worker.worker",
    "netloader.engine.loader",
)
_NEEDS_VLLM: Final = frozenset(
    f"tests.ascend.{name}" for name in ("generator", "npu_worker", "ordered_worker", "upstream_end")
)

_CACHE: Final = Path(sys.prefix, "cache", f"vllm-{version('vllm')}")
"""vLLM looks at a model's class in a process that imports vLLM anew, 15 s of a core. Here it keeps
what it found, by the hash of the class's file."""


@functools.cache
def _nursery(modules: tuple[str, ...]) -> Nursery:
    """One for the whole test run."""
    home = Path(tempfile.mkdtemp(prefix="ascend-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    # Without a thread: one that is not forked holds its locks for ever.
    made = Nursery(modules, _environment(home) | {"OPENBLAS_NUM_THREADS": "1"})
    atexit.register(made.close)
    return made


def _environment(home: Path) -> dict[str, str]:
    env = isolated_environment(home)
    for name in ("TASK_QUEUE_ENABLE", "PYTHONDONTWRITEBYTECODE"):
        env.pop(name, None)
    return env | {"VLLM_HOST_IP": "127.0.0.1", "VLLM_CACHE_ROOT": str(_CACHE)}


class ProcessError(Exception):
    """A process did not do what it was to do; with the end of its output."""


class Process:
    """`python -m module` with a channel to it, in a process group of its own."""

    def __init__(
        self,
        module: str,
        home: Path,
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        """Start it. `arguments` reach it as JSON; output goes to `{home}/{name}.log`."""
        ours, its = socket.socketpair()
        self.name = name
        self.log = home / f"{name}.log"
        self._channel = Channel(ours)
        modules = _VLLM if module in _NEEDS_VLLM else _TRANSFER
        with self.log.open("wb") as log, its:
            self._process = _nursery(modules).start(
                module,
                json.dumps(arguments),
                stdin=its,
                output=log,
                env=_environment(home) | dict(env or {}),
            )
            self._process.close()

    def say(self, **message: Any) -> None:
        self._channel.say(**message)

    def hear(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Its next message. Raises `ProcessError` if it ends, fails or takes too long."""
        try:
            return self._channel.hear(timeout_s)
        except (Ended, TimeoutError) as error:
            raise ProcessError(f"{self.name}: {error!r}\n{self.tail()}") from None

    def ask(self, do: str, *, timeout_s: float = ANSWER_S, **arguments: Any) -> Any:
        """Have it run one of its commands. Raises `ProcessError` with its error."""
        self.say(do=do, **arguments)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = ANSWER_S) -> Any:
        """The answer to a command that was said before."""
        message = self.hear(timeout_s)
        if "error" in message:
            raise ProcessError(f"{self.name}: {message['error']}")
        return message["value"]

    def kill(self) -> None:
        """End it, and nothing else, by SIGKILL. Its status is then known."""
        self._process.kill()
        self._process.wait(_END_S)

    def status(self, timeout_s: float = ANSWER_S) -> int:
        """Wait for its end. Negative: the signal that ended it."""
        return self._process.wait(timeout_s)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it: it ends by itself when the channel closes, unless it hangs."""
        self._channel.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Its children too: its group is its own.
            os.killpg(self._process.pid, 9)
            self._process.wait(_END_S)
