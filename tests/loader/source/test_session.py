"""A session sends what is wanted, and ends when it has to, whatever its replica does."""

from __future__ import annotations

import socket
import threading
import time

import torch
from tests.fastest import HANG_S
from tests.loader.source.watched_session import ABORTED, DONE, OFFER, WaitingSeen, Watched
from tests.loader.support import (
    SendLog,
    TamperedBackend,
    big_weights,
    offer_of,
    toy_weights,
    until,
)

from netloader.source.session import SessionOutcome
from netloader.source.settings import SourceSettings
from netloader.source.throttle import Throttle


def test_wanted_chunks_are_sent_and_done_ends_the_session() -> None:
    watched = Watched(OFFER)
    group = watched.join()
    chunk = OFFER.chunks[0]
    target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
    arriving = group.recv(target, chunk.id)
    assert watched.session.want([chunk.id]) is None
    arriving.wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert torch.equal(target, OFFER.weights.view(chunk.pieces[0]))
    assert watched.session.sent_bytes == chunk.nbytes
    assert watched.session.has_sent(chunk.id)
    assert not watched.session.has_sent(chunk.id + 1)


def test_a_limited_session_cuts_chunks_into_messages_and_waits_for_each_turn() -> None:
    offer = offer_of(big_weights(1, 2))
    throttle = Throttle(5_000_000, 400)
    assert throttle.message_bytes == 98_304
    watched = Watched(offer, throttle=throttle)
    group = watched.join()
    chunk = offer.chunks[0]
    target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
    started = time.monotonic()
    arriving = [group.recv(part, 0) for part in target.split(throttle.message_bytes)]
    watched.session.want([0])
    for part in arriving:
        part.wait(HANG_S)
    took_s = time.monotonic() - started
    usage = watched.session.usage()
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert torch.equal(target, offer.weights.view(chunk.pieces[0]))
    # 2 MiB at 5 MB/s, less the first message and one turn made up for.
    assert took_s > 0.35
    assert usage.held_s > 0.1
    group.abort()


def test_packed_chunks_may_be_cut_too_and_share_staging_memory() -> None:
    weights = toy_weights(1, chunk=1 << 20)
    offer = offer_of(weights)
    throttle = Throttle(1_000_000_000, 80_000)  # Fast, and in small messages.
    size = throttle.message_bytes
    packed = [chunk for chunk in offer.chunks if len(chunk.pieces) > 1]
    assert max(chunk.nbytes for chunk in packed) > size
    watched = Watched(offer, throttle=throttle)
    group = watched.join()
    staging = torch.empty(weights.manifest.chunk_bytes, dtype=torch.uint8)
    for chunk in packed * 2:
        target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
        arriving = [group.recv(part, chunk.id) for part in target.split(size)]
        watched.session.want([chunk.id])
        for part in arriving:
            part.wait(HANG_S)
        assert torch.equal(target, weights.pack(chunk, staging))
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    group.abort()


def test_staging_memory_is_two_chunks_however_many_are_asked_for() -> None:
    weights = toy_weights(1)
    log = SendLog()
    used: set[int] = set()
    waits = threading.Event()

    def on_send(tag: int, data: torch.Tensor) -> torch.Tensor:
        used.add(data.untyped_storage().data_ptr())
        return log(tag, data)

    offer = offer_of(weights, backend=WaitingSeen(on_send, waits=waits))
    packed = [chunk for chunk in offer.chunks if weights.contiguous(chunk) is None] * 3
    assert len(packed) > SourceSettings().staged_chunks
    watched = Watched(offer)
    group = watched.join()
    watched.session.want([chunk.id for chunk in packed])
    assert waits.wait(HANG_S)  # Nobody receives: the next ones have to wait.
    assert len(log.sent) == SourceSettings().staged_chunks
    for chunk in packed:
        target = torch.zeros(chunk.nbytes, dtype=torch.uint8)
        group.recv(target, chunk.id).wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    assert len(log.sent) == len(packed)
    assert len(used) <= SourceSettings().staged_chunks
    group.abort()


def test_time_without_requests_is_counted_as_idle() -> None:
    watched = Watched(offer_of(toy_weights(1)))
    group = watched.join()
    until(lambda: watched.session.usage().idle_s >= 0.02)
    stuck_at = watched.session.usage()
    target = torch.zeros(watched.session.offer.chunks[0].nbytes, dtype=torch.uint8)
    arriving = group.recv(target, 0)
    watched.session.want([0])
    arriving.wait(HANG_S)
    watched.session.finish()
    assert watched.ends_in(10) == DONE
    ended = watched.session.usage()
    assert ended.sent_bytes == target.numel()
    assert ended.idle_s >= stuck_at.idle_s
    assert ended.held_s == 0
    group.abort()


def test_replica_that_never_asks_is_given_up() -> None:
    watched = Watched(OFFER, timeout_s=0.1)
    group = watched.join()
    assert watched.ends_in(10) == SessionOutcome("broken", "nothing asked for in 0.1 s")
    group.abort()


def test_replica_that_asks_and_does_not_receive_is_given_up() -> None:
    watched = Watched(OFFER, timeout_s=0.2)
    group = watched.join()
    watched.session.want(range(8))
    outcome = watched.ends_in(10)
    assert outcome.how == "broken"
    assert "timed out after 0.2 s" in outcome.reason
    group.abort()


def test_replica_that_dies_ends_the_session_with_the_next_send() -> None:
    watched = Watched(OFFER)
    watched.join().abort()
    watched.session.want([0, 1])
    assert watched.ends_in(10).how == "broken"


def test_a_replica_that_connects_to_the_rendezvous_and_says_nothing_is_given_up() -> None:
    watched = Watched(OFFER, opening_s=0.3)
    with socket.create_connection(("127.0.0.1", watched.rendezvous.port)):
        assert watched.ends_in(10).how == "broken"


def test_requests_in_all_are_limited_however_they_are_spread() -> None:
    offer = offer_of(toy_weights(1))
    watched = Watched(offer)
    allowed = 4 * len(offer.chunks) + 64
    for _ in range(allowed):
        assert watched.session.want([0]) is None
    assert watched.session.want([]) is None
    assert watched.session.want([0]) == "asked for each chunk more than 4 times"
    watched.session.abort("enough")
    assert watched.ends_in(10) == ABORTED


def test_a_fault_of_ours_ends_the_session_and_nothing_else() -> None:
    def broken(tag: int, data: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("oops")

    watched = Watched(offer_of(toy_weights(1), backend=TamperedBackend(broken)))
    group = watched.join()
    watched.session.want([0])
    assert watched.ends_in(10) == SessionOutcome("broken", "ZeroDivisionError: oops")
    group.abort()
