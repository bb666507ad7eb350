"""Trials with members that are ready: one small chunk each, over a session like any other."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from mesh_inspect.doctor.transfer import Trialled
from mesh_inspect.view.rows import HoldingRow
from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.identity.identity import Identity
from netmesh import MeshSettings, Reach, SocketSecurity

if TYPE_CHECKING:
    from netloader.transport import Backend

MOST: Final = 8
"""Members that are asked. A rule of a firewall is about a host or a range of its ports, so members
of different hosts come first."""

AT_ONCE: Final = 4
"""Each costs a thread and a context of ZeroMQ. Two rounds of waits end within `doctor`'s time."""

STEP_S: Final = 5.0
"""Seconds for each wait of a trial: opening a group takes milliseconds, on a busy host seconds."""


def tried(
    ready: Sequence[HoldingRow],
    settings: MeshSettings,
    deadline: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[list[Trialled], str]:
    """Trials with some of these members, and why there are none. Imports torch."""
    try:
        from netloader.transport import backends_for
        from netloader.worker.process import PURPOSE
    except ImportError as error:
        return [], f"it needs torch, which is not here: {error}"
    backends = backends_for("cpu")
    security = SocketSecurity.from_settings(settings, PURPOSE)

    def one(row: HoldingRow) -> Trialled | None:
        left_s = deadline - monotonic()
        if left_s <= 0:
            return None
        return _trial(row, backends, security, min(STEP_S, left_s), settings)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mesh-inspect") as pool:
        done = [trial for trial in pool.map(one, _spread(ready)[:MOST]) if trial is not None]
    return done, "" if done else "there was no time left (--timeout)"


def _spread(ready: Sequence[HoldingRow]) -> list[HoldingRow]:
    """In the given order, but the first one of each host before the second one of any."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, HoldingRow]] = []
    for row in ready:
        turns.append((seen[row.member.host], row))
        seen[row.member.host] += 1
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])]


def _trial(
    row: HoldingRow,
    backends: Sequence[Backend],
    security: SocketSecurity,
    step_s: float,
    settings: MeshSettings,
) -> Trialled:
    from netloader.replica.trial import attempt

    holding = row.holding
    assert holding is not None, "ready"
    trial = attempt(
        Candidate(holding.endpoint, BY_MESH, row.member.generation, holding.offered),
        Identity.of_fields(holding.fields, holding.names, holding.content),
        backends,
        lambda: security,
        holding.chunk_bytes,
        name=f"mesh-inspect doctor on {socket.gethostname()}",
        timeout_s=step_s,
        reaches=Reach.of(holding.endpoint, settings.networks).allows,
    )
    said = f"{trial.end}: {trial.detail}" if trial.detail else str(trial.end)
    return Trialled(
        row.member.id, trial.end.name, said, trial.transport, trial.nbytes, trial.seconds
    )
