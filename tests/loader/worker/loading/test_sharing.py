"""What a worker hands out while it loads, and when it stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.partial_source import PartialSource, partial_source
from tests.loader.relay import Relay, relay
from tests.loader.source.held_weights import HeldWeights
from tests.loader.support import (
    GENERATION,
    Caller,
    Toy,
    calling,
    candidate,
    cut_after,
    equal,
    hello,
    identity,
    in_background,
    offer_of,
    pull_into,
    serving,
    toy_weights,
    until,
    wrong_byte_in,
)
from tests.loader.worker.loading.whole_load import ROWS, FakeEngine, load_with, sources, working
from tests.loader.worker.loading.whole_load import WEIGHTS as LARGE
from torch import nn

from netloader.errors import NoSourceLeft
from netloader.identity.identity import known
from netloader.protocol import messages
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Corrupt, Lost
from netloader.replica.settings import SwarmSettings
from netloader.weights.capture import Weights
from netloader.worker.loading.sharing import Sharing

WEIGHTS = toy_weights(1)
CHUNKS = WEIGHTS.manifest.chunks()
PACKED = next(chunk.id for chunk in CHUNKS if WEIGHTS.contiguous(chunk) is None)


def asked(caller: Caller, weights: Weights = WEIGHTS) -> messages.Message:
    """The answer to a replica that does not know the generation."""
    return caller.ask(hello(weights, generation=None))


class TestAdvert:
    def test_it_shares_once_it_knows_what_all_chunks_will_be(self) -> None:
        with partial_source(WEIGHTS) as source, relay(toy_weights()) as one:
            assert not one.advert.serves
            with one.pulling(lambda: (source.candidate,)):
                until(lambda: one.advert.serves)
                assert one.advert.held == 0
                assert one.advert.content == known(identity().content)
                source.gain_all()
            assert one.advert.held > 0
            one.complete(WEIGHTS)
            assert (one.advert.state, one.advert.sharing, one.advert.held) == ("ready", False, 0)

    def test_while_it_is_post_processed_nobody_new_is_invited(self) -> None:
        with serving(offer_of(WEIGHTS)) as source, relay(toy_weights()) as one:
            with one.pulling(lambda: (candidate(source),)):
                pass
            assert one.advert.serves
            one.worker.sources.hold("target", "post-processing")
            assert not one.advert.serves


class TestNotShared:
    def test_what_nobody_verifies(self) -> None:
        replica = toy_weights()
        with (
            serving(offer_of(WEIGHTS)) as source,
            relay(replica, worker={"VERIFY": False}) as one,
            calling(one.source) as caller,
        ):
            with one.pulling(lambda: (candidate(source),)):
                pass
            assert equal(replica, WEIGHTS)
            assert not one.advert.sharing
            refused = asked(caller)
            assert isinstance(refused, messages.Refuse)
            assert refused.reason == "the source is still loading"

    def test_what_post_processing_has_left(self) -> None:
        runtime = toy_weights()
        manifest = replace(runtime.manifest, layout="runtime")
        with relay(toy_weights()) as one:
            processed = replace(runtime, manifest=manifest)
            sharing = Sharing(one.worker, identity(), (), processed)
            with serving(offer_of(WEIGHTS)) as source:
                pull = pull_into(
                    toy_weights(),
                    observer=sharing.observer(PullObserver()),
                )
                pull.run(lambda: (candidate(source),))
            assert not one.advert.sharing

    def test_anything_where_no_port_can_be_listened_on(self) -> None:
        replica = toy_weights()
        with serving(offer_of(WEIGHTS)) as source, relay(replica) as one:
            one.worker.sources.drop("target", "its model is gone")
            with one.pulling(lambda: (candidate(source),)):
                pass
            assert equal(replica, WEIGHTS)
            assert not one.advert.sharing


class TestBrokenPromise:
    def test_nothing_is_overwritten_while_a_replica_reads_it(self) -> None:
        events: list[str] = []
        weights = HeldWeights.of(toy_weights(), on_packed=lambda: events.append("packed"))

        def observed(observer: PullObserver) -> PullObserver:
            def voided() -> None:
                events.append("void")
                observer.voided()
                events.append("withdrawn")

            return replace(observer, voided=voided)

        lie, last = threading.Event(), CHUNKS[-1].id

        def liar(tag: int, data: torch.Tensor) -> torch.Tensor:
            if tag != last:
                return data
            assert lie.wait(HANG_S)
            return wrong_byte_in(last)(tag, data)

        reader = pull_into(toy_weights(), source_timeout_s=0.0)

        def read() -> None:
            with pytest.raises(NoSourceLeft):
                reader.run(one.look)

        with (
            partial_source(WEIGHTS, [PACKED, last], liar) as lying,
            serving(offer_of(toy_weights(2))) as honest,
            relay(weights, observed=observed) as one,
            one.pulling(lambda: (candidate(honest) if events else lying.candidate,)),
        ):
            until(one.look)
            with in_background(read):
                assert weights.packing.wait(HANG_S)
                lie.set()
                until(lambda: events)
                assert events == ["void"]
                weights.go_on.set()
        assert events[:3] == ["void", "packed", "withdrawn"]
        assert equal(weights, toy_weights(2))
        assert one.accused == [(lying.source.endpoint, GENERATION)]
        assert [type(failure.how) for failure in one.pull.failures] == [Corrupt]
        assert [type(failure.how) for failure in reader.failures] == [Lost]

    def test_the_next_promise_is_shared_again(self) -> None:
        first, last = toy_weights(), toy_weights()
        other, lied = toy_weights(2), threading.Event()

        def lie(tag: int, data: torch.Tensor) -> torch.Tensor:
            lied.set()
            return wrong_byte_in(tag)(tag, data) if tag == 1 else data

        with (
            partial_source(WEIGHTS, [0, 1], lie) as lying,
            partial_source(other, [0]) as honest,
            relay(first) as one,
            calling(one.source) as caller,
            one.pulling(lambda: (honest.candidate if one.accused else lying.candidate,)),
        ):
            until(lambda: one.accused)
            until(lambda: one.pull.nbytes)
            accept = asked(caller, other)
            honest.gain_all()
            assert isinstance(accept, messages.Accept) and accept.have == ((0, 1),)
            reader = pull_into(last, source_timeout_s=HANG_S)
            reader.run(one.look, wait_for_one=True)
        assert equal(first, other) and equal(last, other)

    def test_until_then_replicas_are_told_to_come_again(self) -> None:
        honest = threading.Event()
        with (
            partial_source(WEIGHTS, [0, 1], wrong_byte_in(1)) as lying,
            serving(offer_of(WEIGHTS)) as source,
            relay(toy_weights()) as one,
            calling(one.source) as caller,
            one.pulling(lambda: (candidate(source) if honest.is_set() else lying.candidate,)),
        ):
            until(lambda: one.accused)
            refused = asked(caller)
            held = one.advert
            until(lambda: not one.advert.feeds)
            assert one.advert.held == 0
            honest.set()
        assert isinstance(refused, messages.Refuse) and refused.code == "not-ready"
        assert refused.retry_after_s is not None
        assert (held.serves, held.content) == (False, {})
        assert one.advert.serves


class TestGivenUp:
    def test_storage_writes_only_once_nothing_is_read(self) -> None:
        seen: list[messages.Message] = []

        @dataclass
        class Engine(FakeEngine):
            def load_from_storage(self, model: nn.Module) -> None:
                source = worker.sources.listen("target")
                assert source is not None
                with calling(source) as caller:
                    seen.append(asked(caller, LARGE))
                held = worker.membership.holding("target")
                assert held is not None and not held.serves
                super().load_from_storage(model)

        with sources(cut_after(2)) as endpoints:
            listed = [{"device_id": 0, "sources": endpoints}]
            with working(SOURCE=listed, SOURCE_TIMEOUT=0) as worker:
                loaded = load_with(worker, Engine(), lambda: Toy(rows=ROWS))
        assert (loaded.origin, loaded.right, loaded.reason) == ("storage", True, "")
        (refused,) = seen
        assert isinstance(refused, messages.Refuse) and refused.code == "not-ready"
        assert refused.reason == "what it had pulled was given up"
        assert refused.retry_after_s is not None


class TestOneHost:
    """A replica with a neighbour on its host, which loads as well, and a source elsewhere. The
    neighbour has the first chunk, and has asked others for the rest."""

    def test_what_its_neighbour_is_getting_it_does_not_fetch_over_the_link(self) -> None:
        with self.loading() as (one, near, far):
            far.gain(range(len(CHUNKS)))
            near.gain(range(len(CHUNKS)))
        assert equal(one.weights, WEIGHTS)
        assert far.log.sent == []

    def test_what_its_neighbour_does_not_get_after_all_it_fetches(self) -> None:
        with self.loading() as (one, near, far):
            far.gain(range(len(CHUNKS)))
            near.available.given_up(LATER)
            near.source.gained()
        assert equal(one.weights, WEIGHTS)
        assert sorted(far.log.sent) == LATER

    def test_its_neighbour_hears_what_it_is_getting(self) -> None:
        with self.loading() as (one, near, far), calling(one.source) as caller:
            near.available.given_up(LATER)
            near.source.gained()
            session = caller.accepted(WEIGHTS, generation=None, near=True).session
            far.gain(LATER[:1])
            assert caller.receive() == messages.Have(session=session, chunks=(), coming=LATER[:1])
            assert caller.receive() == messages.Have(session=session, chunks=LATER[:1])
            far.gain(range(len(CHUNKS)))

    @contextmanager
    def loading(self) -> Iterator[tuple[Relay, PartialSource, PartialSource]]:
        swarm = SwarmSettings(near_patience_s=HANG_S)
        with (
            partial_source(WEIGHTS) as far,
            partial_source(WEIGHTS) as near,
            relay(toy_weights(), swarms=True, swarm=swarm) as one,
            one.pulling(lambda: (far.candidate, replace(near.candidate, near=True))),
        ):
            until(lambda: far.source.sessions and near.source.sessions)
            for chunk in LATER:
                near.available.asked(chunk)
            near.gain(FIRST)
            # What comes later in the same connection has been heard before this chunk is there.
            until(lambda: one.pull.nbytes)
            yield one, near, far


FIRST = [0]
LATER = list(range(1, len(CHUNKS)))
