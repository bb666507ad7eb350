"""A source's good name: what comes of a replica's complaint about a chunk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.fastest import HANG_S
from tests.loader.source.scripted_replica import refusal_of, replica_of
from tests.loader.support import offer_of, serving, toy_weights, until

from netloader.protocol import messages
from netloader.source.audit import CHANGED
from netloader.source.observer import SourceObserver
from netloader.source.offer import Offer
from netloader.source.service import Source


@contextmanager
def changing() -> Iterator[tuple[Source, Offer, list[str]]]:
    """A source of its own weights, and what it says when they have changed."""
    reasons: list[str] = []
    offer = offer_of(toy_weights(1))
    with serving(offer, observer=SourceObserver(changed=reasons.append)) as source:
        yield source, offer, reasons


def test_source_whose_weights_have_changed_withdraws_when_a_replica_complains() -> None:
    with (
        changing() as (source, offer, reasons),
        replica_of(source) as replica,
        replica_of(source) as other,
    ):
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        replica.fetch(2)
        replica.bye(bad_chunk=2)
        until(lambda: reasons)
        assert reasons == [CHANGED]
        ended = other.caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == CHANGED
        until(lambda: source.sessions == 0)
        refused = refusal_of(other.caller)
        assert (refused.code, refused.reason) == ("not-ready", CHANGED)


def test_a_complaint_about_right_bytes_costs_nobody_but_its_replica(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        changing() as (source, _, reasons),
        replica_of(source) as replica,
        replica_of(source) as other,
        caplog.at_level(logging.WARNING),
    ):
        replica.fetch(2)
        replica.bye(bad_chunk=2)
        until(lambda: "mine is right" in caplog.text)
        assert reasons == []
        assert other.fetch(1).numel() == other.chunks[1].nbytes
        until(lambda: source.sessions == 1)


@pytest.mark.parametrize("chunk", [2, 100_000], ids=["not sent", "none"])
def test_a_complaint_about_what_was_not_sent_is_not_looked_into(
    chunk: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        changing() as (source, offer, reasons),
        replica_of(source) as replica,
        caplog.at_level(logging.INFO, "netloader.source.dispatch"),
    ):
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        replica.fetch(1)
        replica.bye(bad_chunk=chunk)
        until(lambda: source.sessions == 0)
        assert f"complains about chunk {chunk} without ground" in caplog.text
        assert reasons == []


def test_a_complaint_about_weights_of_before_says_nothing_of_those_of_now() -> None:
    with changing() as (source, offer, reasons), replica_of(source) as replica:
        replica.fetch(2)
        offer.weights.view(offer.chunks[2].pieces[0])[5] ^= 1
        source.serve(offer_of(toy_weights(1)))
        replica.bye(bad_chunk=2)
        until(lambda: source.sessions == 0)
        with replica_of(source) as other:
            other.fetch(2)
        assert reasons == []


def test_a_listener_for_changes_that_fails_leaves_the_source_withdrawn() -> None:
    told = threading.Event()

    def fail(reason: str) -> None:
        told.set()
        raise RuntimeError("the mesh is gone")

    offer = offer_of(toy_weights(1))
    with (
        serving(offer, observer=SourceObserver(changed=fail)) as source,
        replica_of(source) as replica,
    ):
        offer.weights.view(offer.chunks[0].pieces[0])[0] ^= 1
        replica.fetch(0)
        replica.bye(bad_chunk=0)
        assert told.wait(HANG_S)
        assert refusal_of(replica.caller).reason == CHANGED
        assert source.sessions == 0
