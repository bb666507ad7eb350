"""When a source whose weights were reloaded becomes a source again.

vLLM can load weights into a live model, after a deep sleep or on request. vLLM tells its loader
when that begins, but not when it ends. The digests promised to peers show the end: once every chunk
has its digest again, the weights are the checkpoint's again, whatever wrote them.
"""

from __future__ import annotations

import threading

from netloader.source.offer import Offer
from netloader.weights import digests

FIRST_LOOK_S = 0.2
"""Seconds before the first look, doubled with each. Reloading a model takes at least as long."""

PATIENCE_S = 300.0
"""Seconds after which the weights count as different for good. A large model from network storage
takes minutes to be processed after its last tensor was read."""


def can_be_compared(offer: Offer) -> bool:
    """Whether `again_as_promised` may read the weights. The memory of an accelerator may be gone
    while a model sleeps, and reading it would end the process."""
    return offer.weights.device_type == "cpu"


def again_as_promised(
    offer: Offer,
    stop: threading.Event,
    *,
    first_look_s: float = FIRST_LOOK_S,
    patience_s: float = PATIENCE_S,
) -> bool:
    """Wait until all chunks of `offer`, which `can_be_compared`, have the promised digests.

    Returns False when that takes longer than `patience_s`, or when `stop` is set.
    """
    waited, pause = 0.0, first_look_s
    while waited < patience_s:
        if stop.wait(pause):
            return False
        waited += pause
        pause = min(2 * pause, 10.0)
        if tuple(digests.of_weights(offer.weights, offer.chunks)) == tuple(offer.digests):
            return True
    return False
