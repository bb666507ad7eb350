"""One wrong byte, many times: is it found every time, and fetched from another source?

    python -m tests.loader.wrong_bytes --trials 1000

Two sources of the same weights, one of which flips a random bit of a random byte in one of the
chunks that it sends, on its way out. The other sends nothing until that is found: otherwise it
could bring everything before. Every trial is a whole pull: real sessions, real Gloo groups.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from typing import Final

import torch
from tests.loader.support import (
    TamperedBackend,
    candidate,
    equal,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.replica.outcome import Corrupt

ROWS: Final = 3000
FIRST_SENDS: Final = 2
"""A source is asked for so many chunks at once, so each of these is sent."""


@dataclass
class Result:
    """What came of all trials."""

    pulls: int = 0
    injected: int = 0
    detected: int = 0
    refetched: int = 0
    """Pulls in which the very chunk that was damaged came from the other source."""
    digests_ok: bool = True


class Injector:
    """Damages one send of a session, in one bit, and remembers which."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.arm()

    def arm(self) -> None:
        """Damage one of the next session's first sends."""
        self._left = self._rng.randrange(FIRST_SENDS)
        self.chunk: int | None = None

    def __call__(self, tag: int, data: torch.Tensor) -> torch.Tensor:
        self._left -= 1
        if self._left != -1:
            return data
        wrong = data.clone()
        wrong[self._rng.randrange(wrong.numel())] ^= 1 << self._rng.randrange(8)
        self.chunk = tag
        return wrong


def run(trials: int, seed: int) -> Result:
    """Run so many pulls one after the other, with a byte damaged in each."""
    truth = toy_weights(1, rows=ROWS)
    injector = Injector(random.Random(seed))
    honest_sent: list[int] = []

    def lies() -> list[Corrupt]:
        return [failure.how for failure in pull.failures if isinstance(failure.how, Corrupt)]

    def note(tag: int, data: torch.Tensor) -> torch.Tensor:
        until(lies)
        honest_sent.append(tag)
        return data

    result = Result()
    liar_offer = offer_of(truth, backend=TamperedBackend(injector))
    honest_offer = offer_of(truth, backend=TamperedBackend(note))
    with serving(liar_offer) as liar, serving(honest_offer) as honest:
        sources = (candidate(liar), candidate(honest))
        for _ in range(trials):
            injector.arm()
            honest_sent.clear()
            replica = toy_weights(rows=ROWS)
            pull = pull_into(replica)
            pull.run(lambda: sources)
            until(lambda: liar.sessions == honest.sessions == 0)
            result.pulls += 1
            result.digests_ok = result.digests_ok and equal(replica, truth)
            result.injected += injector.chunk is not None
            result.detected += [lie.chunk for lie in lies()] == [injector.chunk]
            result.refetched += injector.chunk in honest_sent
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(json.dumps(asdict(run(options.trials, options.seed))))


if __name__ == "__main__":
    main()
