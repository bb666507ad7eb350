"""A source of ours and replicas that speak upstream's protocol."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.loader.support import (
    OPEN,
    Toy,
    calling,
    candidate,
    descriptors,
    equal,
    identity,
    keys,
    leaves_nothing,
    offer_of,
    pull_from,
    pull_into,
    start_source,
    toy_weights,
    until,
)
from tests.loader.upstream.ends import LIMIT_S, GlooCarrier, UpstreamReplica
from torch import nn

from netloader.source.availability import Availability
from netloader.source.listener import Listener
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.source.throttle import Throttle
from netloader.source.upstream import UpstreamService, UpstreamSettings, held
from netloader.upstream.admission import Access
from netloader.upstream.tensors import ordered
from netloader.weights.capture import Weights, capture

LETS_IN = Access(serves=True, has_key=False, around_key=False, beyond_host=False)

JOIN = {"device_id": 3, "model_path": "/models/toy", "tp": 2, "pp": 1}
"""What fits `identity()` on rank 3."""


class Plain(nn.Module):
    """Parameters only, and each of them has dimensions: upstream can move all of it."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        toy = Toy(seed)
        self.embed, self.head = toy.embed, toy.head
        self.permuted, self.slanted = toy.permuted, toy.slanted
        self.small, self.packed, self.empty = toy.small, toy.packed, toy.empty


def plain(seed: int | None = None) -> Weights:
    return capture(Plain(seed), chunk_bytes=64 * 1024)


WEIGHTS = plain(1)


@contextmanager
def serving(
    offer: Offer | None,
    access: Access = LETS_IN,
    carrier: GlooCarrier | None = GlooCarrier(),  # noqa: B008 - it has no state
    timeout_s: float = LIMIT_S,
    **changes: Any,
) -> Iterator[Source]:
    throttle = changes.pop("throttle", None)
    settings = UpstreamSettings(access, 3, timeout_s, LIMIT_S, **changes)
    source = start_source(
        timeout_s,
        listener=Listener("127.0.0.1", None, OPEN, 3.0, has_door=True),
        upstream=lambda current: UpstreamService(current, settings, carrier, throttle),
    )
    try:
        if offer is not None:
            source.serve(offer)
        yield source
    finally:
        source.close()


def address(source: Source) -> tuple[str, int]:
    return "127.0.0.1", source.port


def refused(source: Source, **changes: Any) -> str:
    end, answer = UpstreamReplica(JOIN | changes).ask(address(source))
    with end:
        assert end.recv(1) == b"", "a refusal ends the connection"
    assert answer["label"] == "JOIN_NACK", answer
    reason: str = answer["content"]
    return reason


@pytest.mark.parametrize("group_name", [None, "netloader", "netloader_draft"])
def test_an_upstream_replica_gets_every_byte(group_name: str | None) -> None:
    join = JOIN if group_name is None else JOIN | {"group_name": group_name}
    received = plain()
    with serving(offer_of(WEIGHTS)) as source:
        UpstreamReplica(join).pull(address(source), received)
    assert equal(received, WEIGHTS)


def test_replicas_of_both_kinds_are_served_at_one_port() -> None:
    theirs, ours = plain(), plain()
    with serving(offer_of(WEIGHTS)) as source:
        UpstreamReplica(JOIN).pull(address(source), theirs)
        pull_from(pull_into(ours), candidate(source))
    assert equal(theirs, WEIGHTS)
    assert equal(ours, WEIGHTS)


def test_an_upstream_replica_is_refused_while_chunks_are_missing() -> None:
    """It takes all or nothing. Ours is served what is there."""
    offer = replace(offer_of(WEIGHTS), available=Availability())
    with serving(offer) as source:
        assert refused(source) == "the source is still loading"
        with calling(source) as caller:
            assert caller.accepted(WEIGHTS).have == ()


def test_replicas_are_served_one_after_the_other() -> None:
    received = [plain() for _ in range(4)]
    with serving(offer_of(WEIGHTS)) as source:
        threads = [
            threading.Thread(
                target=lambda one=one: UpstreamReplica(JOIN).pull(address(source), one)
            )
            for one in received
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert all(equal(one, WEIGHTS) for one in received)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device_id": 0}, "(rank, tp, pp) are (3, 2, 1) here"),
        ({"tp": 8}, "and you asked for (3, 8, 1)"),
        ({"model_path": "/models/other"}, "the model here is /models/toy, org/toy, toy"),
        ({"int8_cache": "no"}, "INT8_CACHE"),
        ({"tp": "many"}, "tp must be in"),
    ],
)
def test_a_replica_of_other_weights_is_told_why(changes: dict[str, Any], words: str) -> None:
    with serving(offer_of(WEIGHTS)) as source:
        assert words in refused(source, **changes)


def test_nothing_is_served_before_there_is_an_offer_and_after_it() -> None:
    with serving(None) as source:
        assert "still loading" in refused(source)
        source.serve(offer_of(WEIGHTS))
        source.withdraw("asleep")
        assert "asleep" in refused(source)


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (Access(False, False, False, True), "set UPSTREAM to serve"),
        (Access(True, True, False, True), "has a cluster key"),
    ],
)
def test_whoever_is_not_let_in_is_refused_in_words(
    access: Access, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(offer_of(WEIGHTS), access) as source:
        assert words in refused(source)
    assert "refused vLLM Ascend's own Netloader at 127.0.0.1" in caplog.text


def test_a_worker_that_can_carry_nothing_says_so() -> None:
    with serving(offer_of(WEIGHTS), carrier=None) as source:
        assert "need an NPU" in refused(source)


def test_refusals_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(offer_of(WEIGHTS)) as source:
        for _ in range(40):
            refused(source, tp=8)
    assert 1 <= caplog.text.count("refused vLLM Ascend's own Netloader") <= 20


def test_who_is_told_that_the_mesh_is_here() -> None:
    with (
        serving(offer_of(WEIGHTS)) as source,
        socket.create_connection(address(source), LIMIT_S) as end,
    ):
        end.sendall(b'{"label": "WHO"}')
        assert json.loads(end.recv(1024))["label"] == "WHO_ACK"


@pytest.mark.parametrize(
    ("model", "lacks"),
    [
        (lambda: Toy(1, 10), "1 buffers from the checkpoint (bias first)"),
        (lambda: nn.ParameterDict({"scale": torch.ones(())}), "1 parameters without dimensions"),
    ],
)
def test_what_upstream_would_leave_out_is_told(model: Any, lacks: str) -> None:
    offer = offer_of(capture(model()))
    with serving(offer) as source:
        assert lacks in refused(source)


def test_attributes_do_not_travel_by_upstreams_transfer() -> None:
    assert "attributes (layer.scale first)" in (
        held(offer_of(WEIGHTS, attributes={"layer.scale": 1.0}), 0).lacks
    )


def test_a_buffer_that_each_side_computes_may_stay_out() -> None:
    weights = toy_weights(1, rows=10)
    offer = Offer(identity(), weights, (), {}, offer_of(WEIGHTS).backend, {"bias": "0" * 32})
    assert held(offer, 0).lacks == ""


def test_a_replica_that_hangs_up_leaves_the_source_to_the_next() -> None:
    received = plain()
    with serving(offer_of(WEIGHTS), timeout_s=1.0) as source:
        replica = UpstreamReplica(JOIN)
        end, answer = replica.ask(address(source))
        assert answer["label"] == "JOIN_ACK"
        # It comes to the meeting and leaves after the first tensor.
        group = replica.open(answer["content"]["name"])
        first = next(ordered(received))
        group.recv(first.buffer(), LIMIT_S)
        end.close()
        group.close()
        UpstreamReplica(JOIN).pull(address(source), received)
    assert equal(received, WEIGHTS)


def test_a_replica_that_never_comes_costs_the_time_of_a_meeting() -> None:
    received = plain()
    settings = UpstreamSettings(LETS_IN, 3, LIMIT_S, 0.2)
    source = start_source(
        listener=Listener("127.0.0.1", None, OPEN, 3.0, has_door=True),
        upstream=lambda current: UpstreamService(current, settings, GlooCarrier()),
    )
    try:
        source.serve(offer_of(WEIGHTS))
        end, answer = UpstreamReplica(JOIN).ask(address(source))
        assert answer["label"] == "JOIN_ACK"
        UpstreamReplica(JOIN).pull(address(source), received)
        end.close()
    finally:
        source.close()
    assert equal(received, WEIGHTS)


def test_weights_that_are_withdrawn_are_not_read_any_more() -> None:
    with serving(offer_of(WEIGHTS)) as source:
        replica = UpstreamReplica(JOIN)
        end, answer = replica.ask(address(source))
        group = replica.open(answer["content"]["name"])
        parameters = ordered(plain())
        group.recv(next(parameters).buffer(), LIMIT_S)
        source.withdraw("asleep")
        with pytest.raises(Exception, match=r"."):
            for one in parameters:
                group.recv(one.buffer(), 2.0)
        end.close()
        group.close()
        assert "asleep" in refused(source)


def test_the_rate_limit_counts_upstreams_replicas_too() -> None:
    turns: list[float] = []
    now = 0.0

    def clock() -> float:
        nonlocal now
        turns.append(now)
        now += 1000.0
        return now

    throttle = Throttle(1_000_000, 8, clock)
    with serving(offer_of(WEIGHTS), throttle=throttle) as source:
        UpstreamReplica(JOIN).pull(address(source), plain())
    assert len(turns) >= len(list(ordered(WEIGHTS)))


def test_garbage_ends_neither_the_door_nor_the_service() -> None:
    chance = random.Random(3)
    fields = [*JOIN, "port", "group_name", "int8_cache"]
    values: list[Any] = [None, -1, 0, 1 << 70, 1.5, True, "", "x" * 900, [], {}, "7"]
    received = plain()
    with serving(offer_of(WEIGHTS)) as source:
        for _ in range(300):
            content = JOIN | {"port": 1} | {chance.choice(fields): chance.choice(values)}
            content = {"device_id": 0} | content | {"tp": 99}  # Never one that would be served.
            message: Any = {"label": chance.choice(["JOIN", "WHO", None]), "content": content}
            with socket.create_connection(address(source), LIMIT_S) as end:
                end.sendall(json.dumps(chance.choice([message, content])).encode())
                end.recv(1024)
        UpstreamReplica(JOIN).pull(address(source), received)
    assert equal(received, WEIGHTS)


def test_replicas_that_came_and_went_leave_nothing() -> None:
    with serving(offer_of(WEIGHTS)) as source:
        received = plain()
        leaves_nothing(lambda: UpstreamReplica(JOIN).pull(address(source), received), 5)


def test_a_source_that_closes_refuses_those_who_wait() -> None:
    before = descriptors()
    with serving(offer_of(WEIGHTS)) as source:
        first = UpstreamReplica(JOIN)
        end, answer = first.ask(address(source))
        assert answer["label"] == "JOIN_ACK"
        waiting = socket.create_connection(address(source), LIMIT_S)
        waiting.sendall(json.dumps({"label": "JOIN", "content": JOIN | {"port": 5}}).encode())
        heard: list[bytes] = []

        def listen() -> None:
            # A source that closes before it has read the question resets the connection.
            with suppress(ConnectionResetError):
                heard.append(waiting.recv(1024))

        listening = threading.Thread(target=listen)
        listening.start()
        source.close()
        listening.join(LIMIT_S)
        assert not listening.is_alive()
        end.close()
        waiting.close()
    assert all(b"JOIN_NACK" in words or words == b"" for words in heard)
    until(lambda: descriptors() <= before, LIMIT_S)


def test_a_key_of_the_mesh_stays_out_of_it() -> None:
    """A door takes both kinds of callers with a key, too: ours still need it."""
    security = keys(b"k" * 32)
    settings = UpstreamSettings(Access(True, True, True, False), 3, LIMIT_S, LIMIT_S)
    theirs, ours = plain(), plain()
    source = start_source(
        security=security,
        listener=Listener("127.0.0.1", None, security, 3.0, has_door=True),
        upstream=lambda current: UpstreamService(current, settings, GlooCarrier()),
    )
    try:
        source.serve(offer_of(WEIGHTS))
        UpstreamReplica(JOIN).pull(address(source), theirs)
        pull_from(pull_into(ours, security=security), candidate(source))
    finally:
        source.close()
    assert equal(theirs, WEIGHTS) and equal(ours, WEIGHTS)
