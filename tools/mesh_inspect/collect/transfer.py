"""A trial with a member that is ready: one small chunk over a session like any other."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from mesh_inspect.doctor.transfer import Trialled
from mesh_inspect.rows import HoldingRow
from netloader.discovery.candidate import BY_MESH, Candidate
from netloader.identity.identity import Identity
from netmesh import MeshSettings, Reach, SocketSecurity

TRIALS: Final = 3
"""Members that are asked, until one gives its chunk."""

STEP_S: Final = 5.0
"""Seconds for each wait of a trial: opening a group takes milliseconds, on a busy host seconds."""


def tried(
    ready: Sequence[HoldingRow],
    settings: MeshSettings,
    deadline: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[list[Trialled], str]:
    """Trials with the first of these members, and why there are none. Imports torch."""
    if not ready:
        return [], "nobody is ready to serve"
    try:
        from netloader.replica.trial import TrialEnd, attempt
        from netloader.transport import backends_for
        from netloader.worker.process import PURPOSE
    except ImportError as error:
        return [], f"it needs torch, which is not here: {error}"
    backends = backends_for("cpu")
    security = SocketSecurity.from_settings(settings, PURPOSE)
    done: list[Trialled] = []
    for row in ready[:TRIALS]:
        left_s = deadline - monotonic()
        if left_s <= 0:
            break
        holding = row.holding
        assert holding is not None, "ready"
        trial = attempt(
            Candidate(holding.endpoint, BY_MESH, row.member.generation, holding.offered),
            Identity.of_fields(holding.fields, holding.names, holding.content),
            backends,
            lambda: security,
            holding.chunk_bytes,
            name=f"mesh-inspect doctor on {socket.gethostname()}",
            timeout_s=min(STEP_S, left_s),
            reaches=Reach.of(holding.endpoint, settings.networks).allows,
        )
        said = f"{trial.end}: {trial.detail}" if trial.detail else str(trial.end)
        done.append(
            Trialled(
                row.member.id,
                trial.end.name,
                said,
                trial.transport,
                trial.nbytes,
                trial.seconds,
            )
        )
        if trial.end is TrialEnd.WORKS:
            break
    return done, "" if done else "there was no time left (--timeout)"
