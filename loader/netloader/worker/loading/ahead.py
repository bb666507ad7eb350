"""While vLLM builds the model, read the evidence to compare with a peer into the host's cache."""

from __future__ import annotations

from netloader.identity.identity import Identity, content_mismatch
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netloader.worker.loading.failures import Step, attempt
from netloader.worker.loading.request import LoadRequest


def read_ahead(request: LoadRequest, identity: Identity) -> None:
    """Begin to read evidence if there is a peer to compare it with. Does not wait for the
    result."""
    TransferThread(
        lambda: attempt(Step.AHEAD, lambda: _read_evidence(request, identity)),
        f"{affinity.OURS}evidence",
    ).start()


def _read_evidence(request: LoadRequest, identity: Identity) -> None:
    affinity.step_aside(background=False)
    alike = request.worker.peers.alike(identity)
    if not alike:
        return
    wanted = request.engine.wanted_by_class()
    for holding in alike:
        if content_mismatch(wanted.content, holding.content) is None:
            return
