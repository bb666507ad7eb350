"""Asking whether a source has weights, with nothing to compare tensors with yet."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.loader.support import (
    OPEN,
    Caller,
    candidate,
    hello,
    identity,
    offer_of,
    serving,
    toy_weights,
)

from netloader.discovery.candidate import Candidate
from netloader.identity.identity import Identity
from netloader.plain import Plain
from netloader.protocol import messages
from netloader.replica.inquiry import ask
from netloader.replica.request import Request
from netloader.replica.settings import PullSettings
from netloader.source.observer import SourceObserver
from netloader.source.service import Source
from netloader.transport.gloo import GlooBackend
from netloader.weights.manifest import Manifest

WEIGHTS = toy_weights(1, rows=10)
PROCESSED = identity().processed({"chip": "910B"})


def asked(
    source: Candidate, who: Identity = PROCESSED, **settings: Any
) -> Mapping[str, Plain] | str:
    request = Request(who, (GlooBackend(),), lambda: OPEN, "replica")
    return ask(source, request, PullSettings(**settings), 1 << 20)


def test_a_source_that_has_the_weights_gives_no_reason_and_opens_no_session() -> None:
    told: list[int] = []
    with serving(
        offer_of(WEIGHTS, who=PROCESSED), observer=SourceObserver(sessions=told.append)
    ) as source:
        assert asked(candidate(source)) == {}
        assert asked(candidate(source, generation=None)) == {}
    assert sum(told) == 0


def test_a_source_says_what_its_post_processing_met() -> None:
    weights = replace(
        WEIGHTS, manifest=replace(WEIGHTS.manifest, layout="runtime", chunk_bytes=1 << 20)
    )
    offer = replace(offer_of(weights, who=PROCESSED), loaded={"experts.biases": {"w1", "w3"}})
    with serving(offer) as source:
        assert asked(candidate(source)) == {"experts.biases": {"w1", "w3"}}
        caller = Caller(source)
        caller.send(hello(replace(WEIGHTS, manifest=other_manifest()), PROCESSED))
        refused = caller.receive()
        # Only who has no tensors to compare yet can use it.
        assert isinstance(refused, messages.Refuse) and refused.loaded == {}
        caller.close()


def test_who_only_asks_gets_no_manifest() -> None:
    """A thousand replicas may ask, and a manifest has megabytes."""
    manifest = WEIGHTS.manifest
    with serving(offer_of(WEIGHTS)) as source:
        caller = Caller(source)
        for sent, comes in ((replace(manifest, tensors=()), False), (other_manifest(), True)):
            caller.send(hello(replace(WEIGHTS, manifest=sent)))
            answer, attachment = caller.receive_all()
            assert isinstance(answer, messages.Refuse) and answer.code == "manifest"
            assert (attachment != b"") == comes
        caller.close()


def other_manifest() -> Manifest:
    return replace(WEIGHTS.manifest, tensors=WEIGHTS.manifest.tensors[1:])


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        (identity(), "layout: mine 'checkpoint', theirs 'runtime'"),
        (identity().processed({"chip": "A"}), "chip: mine 'A', theirs '910B'"),
    ],
)
def test_a_source_of_other_weights_says_what_differs(who: Identity, reason: str) -> None:
    with serving(offer_of(WEIGHTS, who=who)) as source:
        assert asked(candidate(source)) == reason


def test_a_source_that_is_not_ready_says_so() -> None:
    with serving(None) as source:
        reason = asked(candidate(source))
    assert isinstance(reason, str) and reason


def test_a_source_with_other_transports_is_not_asked() -> None:
    def other(source: Source) -> Candidate:
        return Candidate(source.endpoint, "test", transports=("hccl",))

    with serving(offer_of(WEIGHTS, who=PROCESSED)) as source:
        assert asked(other(source)) == "no transport in common"


def test_nobody_there_is_a_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reason = asked(Candidate(f"127.0.0.1:{free.getsockname()[1]}", "test"))
    assert isinstance(reason, str) and reason
