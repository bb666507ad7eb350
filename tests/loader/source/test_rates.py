"""A source's bytes per second, which its replicas share."""

from __future__ import annotations

import time
from contextlib import ExitStack

import torch
from tests.fastest import HANG_S
from tests.loader.source.scripted_replica import WEIGHTS, refusal_of, replica_of
from tests.loader.support import big_weights, calling, offer_of, serving

from netloader.protocol import messages
from netloader.source.throttle import Throttle


def test_sources_of_one_worker_share_its_rate_limit() -> None:
    weights = big_weights(1, 4)
    throttle = Throttle(10_000_000, 400)
    with ExitStack() as stack:
        replicas = []
        for _ in range(2):
            source = stack.enter_context(serving(offer_of(weights), throttle=throttle))
            replicas.append(stack.enter_context(replica_of(source, weights)))
        assert replicas[0].accept.message_bytes == throttle.message_bytes
        started = time.monotonic()
        arriving = [replica.begin(0) for replica in replicas]
        for data, parts in arriving:
            for part in parts:
                part.wait(HANG_S)
            assert torch.equal(data, weights.view(replicas[0].chunks[0].pieces[0]))
        took_s = time.monotonic() - started
    # 8 MiB at 10 MB/s take 0.84 s, less what was made up for. Either alone would take half of it.
    assert took_s > 0.7


def test_without_a_limit_a_chunk_is_one_message() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        assert caller.accepted(WEIGHTS).message_bytes == messages.MAX_BULK_MESSAGE_BYTES


def test_a_session_that_only_the_rate_limit_slows_keeps_its_place() -> None:
    weights = big_weights(1, 8)
    with (
        serving(
            offer_of(weights),
            eviction_period_s=0.5,
            max_sessions=1,
            throttle=Throttle(1_000_000, 400),
        ) as source,
        replica_of(source, weights) as slow,
        calling(source) as newcomer,
    ):
        _, arriving = slow.begin(0)
        for number, pending in enumerate(arriving[:40]):  # One takes 66 ms.
            pending.wait(HANG_S)
            if number < 24:  # Until it has been at work for longer than it took to begin.
                continue
            assert refusal_of(newcomer, weights).code == "busy"
        assert source.sessions == 1
        assert slow.caller.hears_nothing(0)
