"""Processes of a test: started, asked, and always ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.ascend.channel import Channel, Ended
from tests.e2e.servers import isolated_environment

ROOT = Path(__file__).parents[2]
ANSWER_S = 60.0
"""How long anything but a start may take, on a machine that is busy with other things."""
START_S = 240.0
"""How long imports and a model may take there."""
_END_S = 30.0


class ProcessError(Exception):
    """A process did not do what it was to do; with the end of its output."""


class Process:
    """`python -m module` with a channel to it, in a session of its own."""

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
        environment = isolated_environment(home) | {"VLLM_HOST_IP": "127.0.0.1"}
        environment.pop("TASK_QUEUE_ENABLE", None)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.log.open("wb") as log, its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(its.fileno()), json.dumps(arguments)],
                cwd=ROOT,
                env=environment | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )

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
            # Its children too: its session is its own.
            os.killpg(self._process.pid, 9)
            self._process.wait(_END_S)
