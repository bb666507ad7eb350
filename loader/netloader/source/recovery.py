"""When a source whose weights were loaded anew is a source again.

vLLM can load weights into a live model, after a deep sleep or on request. It tells its loader when
that begins and not when it has ended; but what was promised to peers tells it as well: once every
chunk has its digest again, the weights are those of the checkpoint again, whoever wrote them.
"""

from __future__ import annotations

import threading

from netloader.source.offer import Offer
from netloader.weights import digests

FIRST_LOOK_S = 0.2
"""Before the first look; doubled with each. Loading a model anew takes at least as long."""

PATIENCE_S = 300.0
"""After which the weights are taken to be others for good. A large model from network storage takes
minutes to be processed after its last tensor was read."""


def again_as_promised(
    offer: Offer,
    stop: threading.Event,
    *,
    first_look_s: float = FIRST_LOOK_S,
    patience_s: float = PATIENCE_S,
) -> bool:
    """Wait until all chunks of `offer` have the promised digests. Host memory only: that of an
    accelerator may be gone while a model sleeps.

    False when that takes longer than `patience_s`, or when `stop` is set.
    """
    if offer.weights.device_type != "cpu":
        return False
    waited, pause = 0.0, first_look_s
    while waited < patience_s:
        if stop.wait(pause):
            return False
        waited += pause
        pause = min(2 * pause, 10.0)
        if tuple(digests.of_weights(offer.weights, offer.chunks)) == tuple(offer.digests):
            return True
    return False
