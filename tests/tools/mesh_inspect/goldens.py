"""What the command prints of a mesh that is always the same, to the letter.

    python -m tests.tools.mesh_inspect.goldens

writes `golden/` anew; `test_golden.py` compares with it. Read the difference before you commit it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.tools.mesh_inspect.support import ALONE, GENERATION, PlayedMesh, holding, member

from mesh_inspect import cli
from mesh_inspect.view.rows import RankPlace
from netloader.discovery.advert import Accused, Feed, Holding, encode
from netmesh import Generation, Member, Status

FOLDER: Final = Path(__file__).parent / "golden"

HOSTILE: Final = "=cmd|'/c calc'!A1 \x1b[31m\u202e\U0001f600, \"x\"\r\ny: [z]"

TWO: Final = replace(ALONE, tp_size=2)
FOUR: Final = replace(ALONE, tp_size=4)


def at(
    number: int, port: int, *held: Holding, status: Status = Status.ALIVE, started_s: int = 0
) -> Member:
    """The member at 10.0.0.NUMBER:PORT, which started some seconds after all others."""
    one = member(
        id=f"10.0.0.{number}:{port}",
        status=status,
        raw=encode(held) | {"release": "0.1.0"},
        age_s=7652.113 - started_s,
    )
    return replace(one, generation=_started(started_s))


def _started(seconds: int) -> Generation:
    return Generation(GENERATION + (seconds * 1000 << 22))


def _qwen(place: RankPlace, endpoint: str, **changes: object) -> Holding:
    values = {"endpoint": endpoint, "transports": ("tcp", "gloo"), "nbytes": 8_190_735_360}
    return holding("Qwen/Qwen3-8B", place, **(values | changes))


def _rank(rank: int, of: RankPlace = TWO) -> RankPlace:
    return replace(of, tp_rank=rank)


_FED: Final = Feed(
    endpoint="10.0.0.1:31000", generation=int(GENERATION), nbytes=1 << 31, rate=1 << 30
)

MESH: Final = (
    at(1, 17946, _qwen(_rank(0), "10.0.0.1:31000", serving=1)),
    at(1, 17947, _qwen(_rank(1), "10.0.0.1:31001")),
    at(
        2,
        17946,
        _qwen(
            _rank(0),
            "10.0.0.2:31000",
            state="loading",
            nbytes=0,
            origin="",
            pulling=1,
            held=1 << 31,
            total=8_190_735_360,
            rate=1 << 30,
            feeds=(_FED,),
            fabric="rail-1",
        ),
        started_s=7640,
    ),
    at(
        2,
        17947,
        _qwen(
            _rank(1), "", state="loading", nbytes=0, origin="", awaits=("10.0.0.3:17946",), total=1
        ),
        started_s=7640,
    ),
    at(
        3,
        17946,
        holding("org/moe", _rank(0, FOUR), endpoint="10.0.0.3:31000", origin="peers"),
        holding("org/draft", role="draft", endpoint="10.0.0.3:31001"),
    ),
    at(
        3,
        17947,
        holding("org/moe", _rank(2, FOUR), endpoint="10.0.0.3:31002", state="unavailable").changed(
            reason="its weights are being updated"
        ),
    ),
    at(
        4,
        17946,
        holding(
            "org/moe",
            _rank(1, FOUR),
            endpoint="10.0.0.4:31000",
            accuses=(Accused(endpoint="10.0.0.3:31000", generation=int(GENERATION)),),
        ),
        status=Status.STALLED,
    ),
    at(5, 17946),
    at(6, 17946, holding(HOSTILE, state="loading", storage="reading", endpoint="")),
    at(7, 17946, _qwen(_rank(0), "10.0.0.7:31000"), status=Status.DEAD),
    at(8, 17946, holding("org/moe", _rank(3, FOUR), endpoint="10.0.0.8:31000")),
    at(
        8,
        17947,
        holding(
            "org/moe",
            _rank(3, FOUR),
            endpoint="10.0.0.8:31001",
            accuses=(Accused(endpoint="10.0.0.3:31000", generation=int(GENERATION)),),
        ),
        started_s=60,
    ),
)


def _later() -> tuple[Member, ...]:
    """The same mesh after some seconds."""
    found = {one.id: one for one in MESH}
    loading = found.pop(MESH[2].id)
    found.pop(MESH[9].id)
    ready = at(2, 17946, _qwen(_rank(0), "10.0.0.2:31000", origin="peers"), started_s=7640)
    stalled = replace(MESH[0], status=Status.STALLED)
    joined = at(9, 17946, started_s=7652)
    return tuple((found | {loading.id: ready, stalled.id: stalled, joined.id: joined}).values())


def _puller(rank: int, held: int, rate: int) -> Member:
    """A worker that pulls its rank of the small model from 10.0.0.1."""
    feed = Feed(endpoint=f"10.0.0.1:3100{rank}", generation=int(GENERATION), nbytes=held, rate=rate)
    loads = _qwen(
        _rank(rank),
        f"10.0.0.2:3100{rank}",
        state="loading",
        nbytes=0,
        origin="",
        pulling=1,
        held=held,
        total=8_190_735_360,
        rate=rate,
        feeds=(feed,),
    )
    return at(2, 17946 + rank, loads, started_s=7640)


def _expert(number: int, rank: int) -> Holding:
    """A rank of the large model, on the host 10.0.0.NUMBER."""
    return holding(
        "org/moe-30b", _rank(rank, FOUR), nbytes=15 << 30, endpoint=f"10.0.0.{number}:3100{rank}"
    )


TOUR: Final = (
    at(1, 17946, _qwen(_rank(0), "10.0.0.1:31000", serving=1)),
    at(1, 17947, _qwen(_rank(1), "10.0.0.1:31001", serving=1)),
    _puller(0, 3_440_108_851, 1 << 30),
    _puller(1, 2_129_591_193, 1 << 29),
    *(at(3, 17946 + rank, _expert(3, rank)) for rank in range(3)),
    at(4, 17946, _expert(4, 3), status=Status.DEAD),
)
"""The mesh of `docs/mesh-inspect.md`."""


def _after_the_tour() -> tuple[Member, ...]:
    found = {one.id: one for one in TOUR}
    ready = at(2, 17946, _qwen(_rank(0), "10.0.0.2:31000", origin="peers"), started_s=7640)
    further = _puller(1, 5_000_000_000, 1 << 29)
    quiet = replace(found["10.0.0.3:17947"], status=Status.STALLED)
    return tuple((found | {one.id: one for one in (ready, further, quiet)}).values())


@dataclass(frozen=True)
class Case:
    """One call of the command."""

    arguments: str
    looks: tuple[tuple[Member, ...] | None, ...] = (MESH,)

    def printed(self) -> str:
        """The command line, what it prints and its exit status."""
        mesh = PlayedMesh(*self.looks)
        left = len(self.looks)

        def paused() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        mesh.paused = paused
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(shlex.split(self.arguments), mesh.means)
        lines = [f"$ mesh-inspect {self.arguments}".rstrip(), *out.getvalue().splitlines()]
        lines += [f"stderr: {line}" for line in err.getvalue().splitlines()]
        return "\n".join([*lines, f"exit status {status}", ""])


CASES: Final[Mapping[str, Case]] = {
    "list": Case(""),
    "list-wide": Case("list -o wide"),
    "list-json": Case("list -o json"),
    "list-jsonl": Case("list -o jsonl"),
    "list-yaml": Case("list -o yaml"),
    "list-csv": Case("list -o csv"),
    "list-name": Case("list -o name"),
    "list-selected": Case("list -l 'model=Qwen/*,state in (ready,loading)' --sort-by -bytes"),
    "list-no-headers": Case("-l status!=alive --no-headers"),
    "list-by-model": Case("list --by model"),
    "list-by-model-wide": Case("list --by model -o wide"),
    "list-by-model-json": Case("list --by model --model org/moe -o json"),
    "list-by-host": Case("list --by host --sort-by -bytes"),
    "list-by-host-csv": Case("list --by host -o csv"),
    "list-by-identity": Case("list --by identity -l model=org/moe"),
    "list-watch": Case("list --watch -l 'model!=org/moe'", (MESH, MESH, _later(), None, MESH)),
    "list-watch-jsonl": Case("-w -o jsonl -l host=10.0.0.2", (MESH, _later(), None)),
    "get": Case("get 10.0.0.2:17946 10.0.0.5"),
    "get-json": Case("get 10.0.0.3:17946 -o json"),
    "get-yaml": Case("get 10.0.0.6 -o yaml"),
    "get-nobody": Case("get 10.0.0.1 10.0.0.9"),
    "models": Case("models"),
    "models-wide": Case("models -o wide --sort-by -missing"),
    "models-json": Case("models --model org/moe -o json"),
    "transfers": Case("transfers"),
    "transfers-wide": Case("transfers -o wide --model 'Qwen/*'"),
    "transfers-json": Case("transfers -o json"),
    "transfers-csv": Case("transfers -o csv -l host=10.0.0.2"),
    "transfers-none": Case("transfers -l model=org/moe"),
    "transfers-watch": Case("transfers -w", (MESH, _later(), _later(), None, MESH)),
    "transfers-watch-jsonl": Case("transfers -w -o jsonl", (MESH, MESH, _later(), None)),
    "match": Case("match --like 10.0.0.2:17946"),
    "match-json": Case("match --like 10.0.0.2:17947 -o json"),
    "wait": Case("wait --model org/moe --count 2"),
    "status-2": Case("--model org/none"),
    "status-2-json": Case("--model org/none -o json"),
    "status-2-empty": Case("list", ((),)),
    "status-3": Case("--mesh quiet --timeout 0.5", (None,)),
    "status-64-key": Case("list -l colour=red"),
    "status-64-sort": Case("list --by host --sort-by tp_rank"),
    "status-64-format": Case("list -w -o yaml"),
    "status-64-mesh": Case("--mesh 'no blanks'"),
    "status-130": Case("-w -l status=dead --no-headers", (MESH,)),
    "doctor-usage-2": Case("doctor --timeout 0"),
    "docs-list": Case("", (TOUR,)),
    "docs-by-model": Case("list --by model", (TOUR,)),
    "docs-by-host": Case("list --by host", (TOUR,)),
    "docs-selector": Case(
        "list -l 'model=Qwen/*,state in (ready,loading)' --sort-by -age", (TOUR,)
    ),
    "docs-name": Case("list -l status=dead -o name", (TOUR,)),
    "docs-json": Case("list -l id=10.0.0.2:17946 -o json", (TOUR,)),
    "docs-watch": Case("-w -l 'model=Qwen/*'", (TOUR, TOUR, _after_the_tour())),
    "docs-models": Case("models", (TOUR,)),
    "docs-models-wide": Case("models -o wide", (TOUR,)),
    "docs-get": Case("get 10.0.0.3:17947", (TOUR,)),
    "docs-match": Case("match --like 10.0.0.2:17946", (TOUR,)),
    "docs-transfers": Case("transfers", (TOUR,)),
    "help-list": Case("list --help"),
}


ENVIRONMENT: Final[Mapping[str, str]] = {
    "COLUMNS": "80",
    "NETLOADER_MESH_DIRECTORY": "/nowhere/netmesh",
    "TZ": "UTC",
}
"""What decides how the command prints."""


def decides(name: str) -> bool:
    """Whether the command looks at this variable."""
    return name.startswith(("NETLOADER_", "KUBERNETES_", "SLURM_", "RAY_"))


def main() -> None:
    for name in filter(decides, list(os.environ)):
        del os.environ[name]
    os.environ.update(ENVIRONMENT)
    time.tzset()
    for old in FOLDER.glob("*.txt"):
        old.unlink()
    for name, case in CASES.items():
        (FOLDER / f"{name}.txt").write_text(case.printed())
    print(f"{len(CASES)} files in {FOLDER}")


if __name__ == "__main__":
    main()
