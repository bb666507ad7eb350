"""Real `vllm serve` processes: started, asked, watched, and always ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.processes import isolated_environment, start_vllm
from tests.forked import ForkedProcess
from tests.free_ports import free_port

_FLAGS = (
    "--enforce-eager",
    "--dtype=bfloat16",
    "--max-model-len=256",
    "--kv-cache-memory-bytes=134217728",
    "--max-num-seqs=4",
)
"""What lets two servers share a machine of two cores; nothing in them concerns the loader."""

SMALL_CHUNKS = {"NETLOADER_CHUNK_BYTES": str(1 << 20)}
"""Environment: a small model has chunks for several sources, and some left when one dies."""

_ALL_SPAWN = "NETLOADER_TEST_SPAWN" in os.environ
"""`make soak` starts every process of every server as a shell and vLLM would."""

START_TIMEOUT_S = 480.0
_STOP_TIMEOUT_S = 20.0
_REPORT_TIMEOUT_S = 60.0


class ServerError(Exception):
    """A server did not come up, or died."""


def killed_once(armed_by: Path, sends: int = 8) -> dict[str, str]:
    """Environment in which a source ends by SIGKILL with its n-th send after `armed_by` exists."""
    return {
        "PYTHONPATH": str(Path(__file__).parent / "faults"),
        "FAULT_KILL_AFTER_SENDS": str(sends),
        "FAULT_ARMED_BY": str(armed_by),
    }


class Server:
    """One `vllm serve` in a process group of its own."""

    def __init__(
        self,
        name: str,
        model: Path,
        home: Path,
        *,
        extra: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        tp: int = 1,
        dp: int = 1,
        flags: Sequence[str] = (),
        report: bool = False,
        start: bool = True,
        forked: bool = False,
    ) -> None:
        """Start it, with its output in `{home}/{name}.log`. Does not wait: see `wait_ready`.

        `flags` are added to the command line. With `report` every rank records where its weights
        came from and the SHA-256 of its tensors. `forked` saves the imports (`served.py`).
        """
        self.name = name
        self._home = home
        self.port = free_port()
        self.log = home / f"{name}.log"
        self.report_prefix = home / f"{name}.report."
        """Where its ranks write their reports, with `report`."""
        self.command = self.command_line(model, self.port, extra=extra, tp=tp)
        if dp > 1:
            self.command += [f"--data-parallel-size={dp}", "--api-server-count=1"]
        self.command += flags
        self._environment = isolated_environment(home) | dict(env or {})
        if report:
            self._environment["NETLOADER_REPORT_PREFIX"] = str(self.report_prefix)
            self._environment["NETLOADER_REPORT_TENSORS"] = "1"
        if tp * dp > 1:
            cores = "|".join(str(n) for n in range(tp * dp))
            self._environment["VLLM_CPU_OMP_THREADS_BIND"] = cores
        else:
            # The only worker lives in the engine's process, as it does on CUDA: one import of vLLM
            # less, half of the time that a server takes to start.
            self._environment.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        self._forked = forked and not _ALL_SPAWN
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        if start:
            self.start()

    def start(self) -> Self:
        """Start the process, once."""
        with self.log.open("wb") as log:
            if self._forked:
                self._process = start_vllm(
                    *("tests.e2e.served", *self.command[1:]),
                    env=self._environment,
                    cwd=self._home,
                    output=log,
                )
                self._process.close()
                return self
            self._process = subprocess.Popen(
                self.command,
                env=self._environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes] | ForkedProcess:
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process

    @staticmethod
    def command_line(
        model: Path, port: int, *, extra: Mapping[str, object] | None = None, tp: int = 1
    ) -> list[str]:
        """The command as an operator would type it."""
        command = ["vllm", "serve", str(model), "--load-format", "netloader", f"--port={port}"]
        command += ["--served-model-name=demo", *_FLAGS]
        if tp > 1:
            command.append(f"--tensor-parallel-size={tp}")
        if extra:
            command.append(f"--model-loader-extra-config={json.dumps(extra)}")
        return command

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Block until the server answers its health check. Raises `ServerError`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerError(
                    f"{self.name} ended with status {self.process.returncode}:\n{self.tail()}"
                )
            try:
                with urllib.request.urlopen(self._url("/health"), timeout=2) as answer:
                    if answer.status == 200:
                        return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise ServerError(f"{self.name} was not ready within {timeout_s:g} s:\n{self.tail()}")

    def wait_ended(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Block until the server has ended by itself and return its status."""
        return self.process.wait(timeout_s)

    def complete(self, prompt: str, tokens: int = 16, timeout_s: float = 120.0) -> str:
        """Greedy completion of a prompt."""
        body = {"model": "demo", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        body["ignore_eos"] = True
        request = urllib.request.Request(
            self._url("/v1/completions"),
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return str(json.load(answer)["choices"][0]["text"])

    def metrics(self) -> str:
        """What Prometheus would read at the server's own `/metrics`."""
        return scrape(self.port)

    def collective_rpc(self, method: str, timeout_s: float = 120.0) -> None:
        """Have every worker do something. Needs `VLLM_SERVER_DEV_MODE=1` in `env`."""
        request = urllib.request.Request(
            self._url("/collective_rpc"),
            data=json.dumps({"method": method}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=timeout_s):
            pass

    def lines(self, words: str) -> list[str]:
        """Lines of its output with these words."""
        text = self.log.read_text(errors="replace")
        return [line for line in text.splitlines() if words in line]

    def report(self, rank: int = 0) -> dict[str, object]:
        """The rank's own record of its load (with `report`).

        Waits for it: the rank writes it when it is a source, and may answer requests before that.
        """
        path = Path(f"{self.report_prefix}{rank}.json")
        deadline = time.monotonic() + _REPORT_TIMEOUT_S
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        content: dict[str, object] = json.loads(path.read_text())
        return content

    def delivered(self, rank: int = 0) -> dict[str, int]:
        """Bytes by the endpoint that sent them, by the rank's own record."""
        deliveries = self.report(rank)["deliveries"]
        assert isinstance(deliveries, list)
        return {delivery["endpoint"]: delivery["nbytes"] for delivery in deliveries}

    def sha256(self, rank: int = 0) -> dict[str, str]:
        """SHA-256 of every tensor that the rank serves, by name."""
        tensors = self.report(rank)["tensors"]
        assert isinstance(tensors, dict)
        return tensors

    def tail(self, lines: int = 60) -> str:
        """The end of the server's output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the server and everything it started: politely, then not."""
        if self._process is None:
            return
        for signal_number, patience in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal_number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline and _group_lives(self.process.pid):
                self.process.poll()
                time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def scrape(port: int) -> str:
    """What Prometheus would read at a port of this host."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop_all(servers: Sequence[Server]) -> None:
    """Stop several servers, all of them even when one resists."""
    for server in servers:
        server.stop()
