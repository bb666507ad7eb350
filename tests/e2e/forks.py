"""Processes of vLLM's own, forked where vLLM starts an interpreter.

vLLM for CPU spawns its engine, the engine spawns workers, and who meets a new architecture looks
into it in a process of its own. Each would import all of vLLM anew. Here each of them is a copy of
the process that `start_vllm` forked, made before anything ran in it. It gets what a spawned process
gets, the environment included, and does what that would do.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import socket
from collections.abc import Callable
from multiprocessing import context, forkserver, spawn
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
from vllm.model_executor.models import registry
from vllm.plugins import load_general_plugins

_prepare = spawn.prepare
_preparation_data = spawn.get_preparation_data


def fork_instead() -> None:
    """Have this process and all that it starts fork where they would start an interpreter.

    Call it first: what this process is by then is what the others begin as.
    """
    spawn.get_preparation_data = _with_environment
    spawn.prepare = _prepare_with_environment
    context._concrete_contexts["spawn"] = multiprocessing.get_context("forkserver")
    registry._run_in_subprocess = _run_in_fork
    _fork_a_server()


def _fork_a_server() -> None:
    """Make a copy of this process that forks on demand: multiprocessing's own, but for its start.

    That would execute a new interpreter.
    """
    # In Linux's abstract name space: nothing is left to remove.
    address = f"\0netloader-forks-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    alive_read, alive_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive_write)
        # It ends when nobody is left that could ask, and tells until then how others ended.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            forkserver.main(listener.detach(), alive_read, [])
        finally:
            os._exit(0)
    os.close(alive_read)
    vars(forkserver._forkserver).update(
        _forkserver_address=address, _forkserver_alive_fd=alive_write, _forkserver_pid=pid
    )
    listener.close()


def _with_environment(name: str) -> dict[str, Any]:
    return {**_preparation_data(name), "environment": dict(os.environ)}


def _prepare_with_environment(data: dict[str, Any]) -> None:
    """In the new process, before anything else happens there."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(data["environment"])
    _fork_a_server()
    _prepare(data)


def _run_in_fork(question: Callable[[], Any]) -> Any:
    """As vLLM's function of the registry, which imports vLLM to answer one question."""
    forks = multiprocessing.get_context("forkserver")
    ours, theirs = forks.Pipe(duplex=False)
    asked = forks.Process(target=_answer, args=(cloudpickle.dumps(question), theirs))
    asked.start()
    theirs.close()
    with ours:
        found = ours.recv()
    asked.join()
    return found


def _answer(question: bytes, asker: Connection) -> None:
    load_general_plugins()
    asker.send(cloudpickle.loads(question)())
