"""vLLM in a process of its own, which calls what it is asked to call.

    with Selector(home) as vllm:
        vllm(look, Question("/models/one"))

One process answers everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from tests.e2e.processes import isolated_environment, start_vllm

P = ParamSpec("P")
T = TypeVar("T")

_START_S = 300.0
_ANSWER_S = 60.0


class Selector:
    """The process. Calling it has a function of a module called there."""

    def __init__(self, home: Path) -> None:
        self._environment = isolated_environment(home)

    def __enter__(self) -> Self:
        self._process = start_vllm("tests.e2e.selector", env=self._environment)
        self._questions = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._answers = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.close()
        self._receive(_START_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._questions.close()
        self._answers.close()

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._questions.send((function, args, kwargs))
        return self._receive(_ANSWER_S)  # type: ignore[no-any-return]

    def _receive(self, seconds: float) -> Any:
        assert self._answers.poll(seconds), f"vLLM's process has not answered for {seconds:g} s"
        answer = self._answers.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def main() -> None:
    """Call what standard input says, and answer on standard output."""
    questions = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    # vLLM writes its log there as well.
    os.dup2(2, 1)
    answers.send("ready")
    while True:
        function, args, kwargs = questions.recv()
        try:
            answers.send(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            answers.send(AssertionError(repr(error)))


if __name__ == "__main__":
    # By its name, so that what is pickled there is found here.
    from tests.e2e import selector

    selector.main()
