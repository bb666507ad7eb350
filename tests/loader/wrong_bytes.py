"""One wrong byte, many times: is it found every time, and fetched from another source?

    python -m tests.loader.wrong_bytes --trials 1000 [--relayed]

Two sources of the same weights, one of which flips a random bit of a random byte in one of the
chunks that it sends, on its way out. The other sends nothing until that is found: otherwise it
could bring everything before. Every trial is a whole pull: real sessions, real Gloo groups.

With `--relayed` the source that lies has half of the chunks so far, and a second replica pulls from
the first while that one still pulls: what is wrong must not reach it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import torch
from tests.fastest import HANG_S
from tests.loader.partial_source import partial_source
from tests.loader.relay import Relay, relay
from tests.loader.support import (
    GENERATION,
    TamperedBackend,
    candidate,
    equal,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
)

from netloader.discovery.candidate import Candidate
from netloader.replica.outcome import Corrupt
from netloader.replica.pull import Pull
from netloader.replica.settings import RetrySettings

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


@dataclass
class RelayedResult:
    """What came of all trials with a second replica."""

    pulls: int = 0
    injected: int = 0
    detected: int = 0
    """Trials in which the first replica found the damaged chunk, and no other."""
    named: int = 0
    """Trials in which the first replica accused the liar, and nobody else."""
    passed_on: int = 0
    """Wrong chunks that reached the second replica."""
    digests_ok: bool = True
    """Whether both replicas ended with the right weights every time."""


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


def always(*found: Candidate) -> Callable[[], tuple[Candidate, ...]]:
    return lambda: found


def run_relayed(trials: int, seed: int) -> RelayedResult:
    """Run so many pairs of pulls, the second of each from the first, with a byte damaged in each
    first."""
    rng = random.Random(seed)
    truth = toy_weights(1, rows=ROWS)
    chunks = range(len(truth.manifest.chunks()))
    injector = Injector(rng)
    result = RelayedResult()
    middle: Relay | None = None

    def lies(pull: Pull) -> list[Corrupt]:
        return [failure.how for failure in pull.failures if isinstance(failure.how, Corrupt)]

    def wait(tag: int, data: torch.Tensor) -> torch.Tensor:
        until(lambda: middle is not None and lies(middle.pull))
        return data

    with serving(offer_of(truth, backend=TamperedBackend(wait))) as honest:
        for _ in range(trials):
            injector.arm()
            half = rng.sample(chunks, len(chunks) // 2)
            first, second = toy_weights(rows=ROWS), toy_weights(rows=ROWS)
            with partial_source(truth, half, injector) as liar, relay(first) as middle:
                soon = RetrySettings(backoff_s=0.02)
                last = pull_into(second, source_timeout_s=HANG_S, retry=soon)
                with middle.pulling(always(liar.candidate, candidate(honest))):
                    last.run(middle.look, wait_for_one=True)
                result.pulls += 1
                result.injected += injector.chunk is not None
                found = [lie.chunk for lie in lies(middle.pull)]
                result.detected += found == [injector.chunk]
                result.named += middle.accused == [(liar.source.endpoint, GENERATION)]
                result.passed_on += len(lies(last))
                right = equal(first, truth) and equal(second, truth)
                result.digests_ok = result.digests_ok and right
            until(lambda: honest.sessions == 0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--relayed", action="store_true")
    options = parser.parse_args()
    chosen = run_relayed if options.relayed else run
    print(json.dumps(asdict(chosen(options.trials, options.seed))))


if __name__ == "__main__":
    main()
