"""Hosts, which load models as they are told, and the meshes that their workers form.

Every load is vLLM's own, through the plugin, with a member of a real mesh (`cases.py`). What is
right is what vLLM's `auto` loads from the same folder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.e2e.processes import isolated_environment, start_vllm
from tests.forked import ROOT, ForkedProcess, answer, tell

_START_S = 400.0
"""Importing vLLM takes it ten seconds, and minutes beside a busy machine's other tests."""


_LOAD_S = 90.0
_CASES = "tests.e2e.cases"


@dataclass(frozen=True)
class Row:
    """What became of one load."""

    told: Mapping[str, Any]

    @property
    def error(self) -> str:
        """How it ended when it failed; empty when it did not."""
        return f"{self.told['error']}: {self.told['message']}" if "error" in self.told else ""

    @property
    def report(self) -> Mapping[str, Any]:
        assert not self.error, self.error
        return dict(self.told["report"])

    @property
    def draft(self) -> Mapping[str, Any]:
        assert not self.error, self.error
        return dict(self.told["draft"])

    @property
    def tensors(self) -> Mapping[str, str]:
        """SHA-256 of each tensor as loading left it."""
        assert not self.error, self.error
        return dict(self.told["tensors"])

    @property
    def endpoint(self) -> str:
        return str(self.report["endpoint"])

    @property
    def suppliers(self) -> list[str]:
        """Who delivered something."""
        return [str(delivery["endpoint"]) for delivery in self.report["deliveries"]]

    @property
    def reasons(self) -> str:
        """Why others were not used."""
        return "\n".join(map(str, self.report["skipped"]))

    @property
    def content(self) -> Mapping[str, str]:
        """What it tells the mesh of its content, by kind of evidence."""
        assert not self.error, self.error
        return dict(self.told["published"]["content"])

    def pulled_from(self, *sources: Row) -> bool:
        """Whether all of it came from some of `sources`, and is what they hold."""
        return (
            self.report["origin"] == "peers"
            and set(self.suppliers) <= {source.endpoint for source in sources}
            and all(self.tensors == source.tensors for source in sources)
            and self.told["storage"] == []
        )

    def read_alone(self) -> bool:
        """Whether it came from storage and nobody had sent anything."""
        return self.report["origin"] == "storage" and not self.suppliers


class Host:
    """A process that loads models one after the other, as `cases.py` is told."""

    def __init__(self, name: str, home: Path, hub: Mapping[str, str] | None = None) -> None:
        """`hub` are settings of the Hub's: imports read them, so the process imports for itself."""
        self._home, self._name = home, name
        self._names = (f"{name}{number}" for number in itertools.count())
        self._truth: dict[str, Mapping[str, str]] = {}
        self.log = home / f"{name}.log"
        self._process: subprocess.Popen[str] | ForkedProcess
        with self.log.open("wb") as log:
            if hub is None:
                self._process = start_vllm(
                    *(_CASES, "--forks"),
                    env=isolated_environment(home),
                    cwd=home,
                    stderr=log,
                )
            else:
                environment = {"PYTHONPATH": str(ROOT), **hub}
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _CASES],
                    env=isolated_environment(home) | environment,
                    cwd=home,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
        self._patience_s = _START_S

    def load(
        self,
        model: Path | str,
        extra: Mapping[str, object],
        engine: Mapping[str, object] | None = None,
        folder: Path | None = None,
        slow_s: float = 0.0,
    ) -> tuple[str, Row]:
        """Load one model, and say under which name it is kept. `slow_s` is how long opening a file
        of weights takes."""
        name = next(self._names)
        told = {"do": "load", "name": name, "model": str(model), "extra": extra, "slow_s": slow_s}
        told |= {"engine": engine or {}, "report": str(self._home / f"{name}.report.")}
        if folder is not None:
            told["folder"] = str(folder)
        return name, Row(self.ask(told))

    def truth(self, model: Path, **engine: object) -> Mapping[str, str]:
        """SHA-256 of each tensor as vLLM loads it without us."""
        key = f"{model} {engine}"
        if key not in self._truth:
            name, row = self.load(model, {}, {"load_format": "auto", **engine})
            self.ask({"do": "close", "names": [name]})
            self._truth[key] = row.tensors
        return self._truth[key]

    @property
    def reads(self) -> bool:
        """Whether it has begun to open files of weights, during a load from slow storage."""
        return any(self._home.glob(f"{self._name}*.report.reading"))

    def kill(self) -> None:
        """End it without a word to anybody."""
        self._process.kill()

    def ask(self, told: Mapping[str, object]) -> dict[str, Any]:
        """Tell it to do something, and wait for its answer."""
        tell(self._process, json.dumps(told))
        line = answer(self._process, self._patience_s)
        assert line, f"{self.log}: " + self.log.read_text(errors="replace")[-4000:]
        self._patience_s = _LOAD_S
        said: dict[str, Any] = json.loads(line)
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It has nothing to finish: its members left when their tests ended.
        self._process.kill()
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Mesh:
    """One test's mesh: whoever is loaded in it leaves it when the test ends."""

    def __init__(self, folder: Path, host: Host) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self.host = host
        self._there: list[tuple[Host, str, Row]] = []
        self._settings: dict[str, object] = {
            "MESH_DIRECTORY": str(folder),
            "MESH_ADVERTISE": "127.0.0.1",
            # Nobody comes later, unless a test says so.
            "SOURCE_TIMEOUT": 1,
        }

    def load(
        self,
        model: Path | str,
        extra: Mapping[str, object] | None = None,
        *,
        host: Host | None = None,
        folder: Path | None = None,
        slow_s: float = 0.0,
        **engine: object,
    ) -> Row:
        """Start a worker on `model`."""
        where = host or self.host
        name, row = where.load(model, self._settings | dict(extra or {}), engine, folder, slow_s)
        self._there.append((where, name, row))
        return row

    def reload(self, path: Path | None = None, *, of: Row | None = None) -> dict[str, Any]:
        """Have a worker, by default the one that started last, load its weights again, in place."""
        host, name, _ = next(
            there for there in reversed(self._there) if of is None or there[2] is of
        )
        return host.ask({"do": "reload", "name": name, "path": str(path) if path else None})

    def leave(self, row: Row) -> None:
        """Have one worker leave the mesh and serve nobody any more."""
        for there in [one for one in self._there if one[2] is row]:
            host, name, _ = there
            host.ask({"do": "close", "names": [name]})
            self._there.remove(there)

    def inspect(self, *arguments: str) -> str:
        """What `mesh-inspect` prints."""
        answer = subprocess.run(
            ["mesh-inspect", *arguments],
            env=isolated_environment(self.folder / "home")
            | {"NETLOADER_MESH_DIRECTORY": str(self.folder)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return answer.stdout

    def member(self, endpoint: str) -> dict[str, Any]:
        """What the mesh says of whoever serves at `endpoint`."""
        members = json.loads(self.inspect("-o", "json"))["members"]
        found: dict[str, Any] = next(one for one in members if one["endpoint"] == endpoint)
        return found

    def until_ready(self, endpoint: str) -> None:
        """Wait until the mesh says that this source may be asked."""
        deadline = time.monotonic() + 60
        while not self.member(endpoint)["ready"]:
            assert time.monotonic() < deadline, self.member(endpoint)

    def until_serving(self, endpoint: str) -> None:
        """Wait until a replica pulls from this source."""
        deadline = time.monotonic() + 60
        while not self.member(endpoint)["sessions"]["serving"]:
            assert time.monotonic() < deadline, self.member(endpoint)

    def close(self) -> None:
        for host in {host for host, _, _ in self._there}:
            names = [name for at, name, _ in self._there if at is host]
            host.ask({"do": "close", "names": names})
