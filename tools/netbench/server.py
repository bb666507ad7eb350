"""A real `vllm serve` that also serves its weights, and the time between its tokens."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

_FLAGS: Final = (
    "--enforce-eager",
    "--dtype=bfloat16",
    "--max-model-len=256",
    "--kv-cache-memory-bytes=134217728",
    "--max-num-seqs=4",
)
_START_TIMEOUT_S: Final = 600.0
_STOP_TIMEOUT_S: Final = 20.0
_NAME: Final = "bench"

EXECUTORS: Final = ("mp", "uni")
"""vLLM's names. `mp`, its default on CPU: the worker is a process of its own, and while it infers,
the engine's process spins on the core that vLLM leaves free. `uni`, as on CUDA: the engine's
process infers itself, here with one thread fewer than cores (`bind` keeps them apart)."""

_BUSY: Final = 0.5
"""A thread counts as inferring if it computes at least this share of what the busiest one does."""

_TOKENS: Final = 200


class ServerError(Exception):
    """The server did not come up or does not answer."""


class VllmServer:
    """One server in a process group of its own, which ends with the context."""

    def __init__(
        self,
        model: Path,
        home: Path,
        extra: Mapping[str, object],
        *,
        executor: str = "mp",
        load_format: str = "netloader",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`extra` is the loader's config, and `executor` is one of `EXECUTORS`. `variables` are
        added to the server's environment. Raises `ServerError`."""
        home.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._log = home / "log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("NETLOADER_")}
        environment = kept | {
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if executor == "uni":
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) - 1))
        command = ["vllm", "serve", str(model), f"--load-format={load_format}"]
        command += [f"--port={self._port}", f"--served-model-name={_NAME}", *_FLAGS]
        if extra:
            command.append(f"--model-loader-extra-config={json.dumps(dict(extra))}")
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    env=environment | dict(variables),
                    cwd=home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise ServerError("`vllm` is not installed") from None

    def wait_ready(self) -> None:
        """Block until the server is healthy. Raises `ServerError` with the end of its log."""
        self._wait(self._healthy)

    def wait_for(self, file: Path) -> None:
        """Block until the server has written `file`. Raises `ServerError` with its log's end."""
        self._wait(file.exists)

    def _healthy(self) -> bool:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self._port}/health"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        return False

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if done():
                return
            time.sleep(0.25)
        end = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
        raise ServerError(f"the server did not come up:\n{end}")

    def token_gaps(self, seconds: float) -> list[float]:
        """Stream completions for about this long; return the seconds between consecutive tokens."""
        gaps: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            gaps += self._stream(end)
        return gaps

    def _stream(self, end: float) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        body = {"model": _NAME, "prompt": "The mesh", "max_tokens": _TOKENS, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True}
        headers = {"Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ServerError(f"a completion failed: {answer.status} {answer.read(300)!r}")
            seen: list[float] = []
            for line in answer:
                if line.startswith(b"data: {"):
                    seen.append(time.perf_counter())
                if time.monotonic() > end:
                    break
        finally:
            connection.close()
        return [later - earlier for earlier, later in pairwise(seen)]

    def bind(self, cores: Collection[int], seconds: float) -> None:
        """Bind the threads that infer to `cores`: those that are busy while the server makes tokens
        for this long. With `mp`, vLLM does so itself."""
        before = self._computed()
        self.token_gaps(seconds)
        spent = {thread: ns - before.get(thread, 0) for thread, ns in self._computed().items()}
        for thread, ns in spent.items():
            if ns >= _BUSY * max(spent.values()):
                os.sched_setaffinity(thread, cores)

    def _computed(self) -> dict[int, int]:
        """CPU time in ns of each thread of the server's processes."""
        found: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # The process has ended.
                if os.getpgid(int(process.name)) == self._process.pid:
                    for task in (process / "task").iterdir():
                        found[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        return found

    def close(self) -> None:
        """End the server and all its processes: first with SIGTERM, then with SIGKILL."""
        group = self._process.pid
        for number, patience in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                self._process.poll()
                try:
                    os.killpg(group, 0)
                except ProcessLookupError:
                    return
                time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
