"""What a start costs in `load_model`: vLLM's own loader, Netloader alone, Netloader with a peer.

Real servers of one random model start one after the other. Each round has one start of every case,
in random order: `--load-format auto`; Netloader alone in its mesh, so that it reads storage; and
Netloader beside a server of the same host that has the weights and stays up. The raw limit stands
beside them: the bytes of the files, read from the page cache into new memory.

A plugin (`netbench.clock`) measures `load_model` inside the worker, alike for every loader: from
the call that builds the model until vLLM has the post-processed model. The time does not include
what Netloader then still does, in threads of its own, to offer the weights to others. `cpu_s` is
the CPU time of all threads of the worker meanwhile, which says more if others use the machine.
`filled_s` is the step that filled the tensors, as Netloader reports it.

All files are in the page cache. Nothing prepares the memory for the model: in every case a virtual
machine may have to get it back from its host first.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from netbench import checkpoint, clock
from netbench.child import Json
from netbench.figures import median
from netbench.server import ServerError, VllmServer

_HIDDEN: Final = 1024
"""Tensors of 1 to 12 MB, hundreds of them in a gigabyte."""

_CASES: Final = ("raw", "auto", "netloader", "peer")
_ORIGINS: Final = {"netloader": "storage", "peer": "peers"}
_COLUMNS: Final = {"seconds": "load_model_s", "cpu_s": "cpu_s", "filled_s": "filled_s"}


def measure(*, nbytes: int, executor: str, repeat: int) -> Json:
    """`executor` is one of `server.EXECUTORS`. Raises `ServerError`."""
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netbench-")))
        model = checkpoint.write(folder / "model", nbytes, hidden=_HIDDEN)
        starts = _Starts(folder, model, executor)
        read_into_new_memory(starts.files)
        peer = stack.enter_context(starts.server("peer", "giver"))
        peer.wait_ready()
        seen: dict[str, list[Json]] = defaultdict(list)
        for number in range(repeat):
            for case in random.Random(number).sample(_CASES, len(_CASES)):
                seen[case].append(starts.once(case))
    return {
        "benchmark": "starts",
        "bytes": starts.nbytes,
        "executor": executor,
        "page_cache": "warm",
        "repeat": repeat,
        "load_before": load,
        **report({case: seen[case] for case in _CASES}),
    }


def report(seen: dict[str, list[Json]]) -> Json:
    """Medians of every case, and their ratios, from what `once` returned in each repetition."""
    cases = {
        case: {
            column: median([one[key] for one in rounds])
            for key, column in _COLUMNS.items()
            if key in rounds[0]
        }
        for case, rounds in seen.items()
    }
    of = {case: figures["load_model_s"] for case, figures in cases.items()}
    return {
        "ratio_netloader": of["netloader"] / of["auto"],
        "ratio_peer": of["peer"] / of["auto"],
        "ratio_raw": of["raw"] / of["auto"],
        "cases": cases,
        **{
            f"repetitions_{column}": {
                case: [one[key] for one in rounds]
                for case, rounds in seen.items()
                if key in rounds[0]
            }
            for key, column in _COLUMNS.items()
        },
    }


def read_into_new_memory(files: list[Path]) -> float:
    """Seconds to read these files, one after the other, into untouched memory."""
    nbytes = sum(file.stat().st_size for file in files)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, nbytes, flags=flags) as mapping, memoryview(mapping) as memory:
        started = time.perf_counter()
        at = 0
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while count := stream.readinto(memory[at:]):
                    at += count
        return time.perf_counter() - started


class _Starts:
    """Starts new servers of one model."""

    def __init__(self, folder: Path, model: Path, executor: str) -> None:
        self.files = sorted(model.glob("*.safetensors"))
        self.nbytes = sum(file.stat().st_size for file in self.files)
        self._folder = folder
        self._model = model
        self._executor = executor
        self._plugin = clock.install(folder / "plugin")
        self._count = 0

    def once(self, case: str) -> Json:
        """Times of one start or of one plain read. Raises `ServerError`."""
        if case == "raw":
            return {"seconds": read_into_new_memory(self.files)}
        self._count += 1
        name = f"{case}-{self._count}"
        with self.server(case, name) as server:
            server.wait_for(self._clock(name))
            written = self._folder / f"{name}.report0.json"
            if case in _ORIGINS:
                server.wait_for(written)  # Netloader may still be at work when vLLM has its model.
        found: Json = json.loads(self._clock(name).read_text())
        if case in _ORIGINS:
            report = json.loads(written.read_text())
            if report["origin"] != _ORIGINS[case]:
                raise ServerError(
                    f"the weights of {name} came from {report['origin']}: {report['skipped']}"
                )
            found["filled_s"] = report["seconds"]
        return found

    def server(self, case: str, name: str) -> VllmServer:
        """A new server. Servers of the case `peer` meet in one mesh; any other is alone."""
        extra: Json = {}
        if case != "auto":
            mesh = "shared" if case == "peer" else name
            extra = {
                "MESH_DIRECTORY": f"{self._folder / mesh}-mesh",
                # Different names, too: the next server here may soon get a member's address.
                "MESH_NAME": mesh,
                "REPORT_PREFIX": f"{self._folder / name}.report",
            }
        return VllmServer(
            self._model,
            self._folder / name,
            extra,
            executor=self._executor,
            load_format="auto" if case == "auto" else "netloader",
            variables=self._plugin | {clock.ENVIRONMENT: str(self._clock(name))},
        )

    def _clock(self, name: str) -> Path:
        return self._folder / f"{name}.clock"
