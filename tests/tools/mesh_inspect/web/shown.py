"""What `mesh-inspect web` shows, as the command that an operator starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
from tests.fastest import HANG_S
from tests.forked import answer

from netmesh import Member


@contextmanager
def web(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server started with these arguments, at a free port of loopback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mesh_inspect", "web", *arguments, "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(env or {}),
    )
    try:
        assert process.stdout is not None
        said = answer(process, HANG_S)  # type: ignore[arg-type]
        assert " at http://" in said, f"the command said {said!r}"
        yield said.rpartition(" at ")[2].strip()
    finally:
        process.terminate()
        try:
            process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def record(path: Path, mesh: str, moments: Mapping[float, tuple[Member, ...]]) -> None:
    """A recording of these moments (seconds since the epoch), every one a keyframe."""
    first = min(moments)
    head = {
        "format": "netloader-recording",
        "version": 1,
        "mesh": mesh,
        "at": first,
        "program": "0.1.0",
    }
    lines: list[dict[str, object]] = [head]
    for at, members in moments.items():
        told = [
            {
                "id": one.id,
                "generation": one.generation,
                "incarnation": one.incarnation,
                "status": one.status.name.lower(),
                "version": one.version,
                "advert": one.advert,
            }
            for one in members
        ]
        lines.append({"at": at, "whole": True, "members": told, "gone": []})
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
