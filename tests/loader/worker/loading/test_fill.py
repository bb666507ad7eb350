"""What a filled model holds for peers, and for how long."""

from __future__ import annotations

import weakref

import pytest
import torch
from tests.loader.support import Toy, until, wrong_byte_in
from tests.loader.worker.loading.whole_load import (
    ROWS,
    WEIGHTS,
    FakeEngine,
    load,
    no_garbage_collector,
    request,
    sources,
    working,
)
from torch import nn

from netloader.identity.identity import known
from netloader.weights import digests
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import Filled, Servable, fill
from netloader.worker.loading.finish import Complete, finish, made_elsewhere
from netloader.worker.loading.plan import BuildAgain, Planned, plan
from netloader.worker.loading.serve import NotServed, Served, serve
from netloader.worker.process import Worker


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def filled(worker: Worker, model: nn.Module) -> Filled:
    built = build(plan(request(worker, FakeEngine())), model)
    assert not isinstance(built, BuildAgain)
    done = fill(built, model)
    assert isinstance(done, Filled)
    return done


def complete(done: Filled, model: nn.Module) -> Complete:
    finished = finish(done, model)
    assert isinstance(finished, Complete)
    return finished


def test_what_peers_and_storage_have_filled_is_promised_alike() -> None:
    with sources(honest) as endpoints:
        listed = [{"device_id": 0, "sources": endpoints}]
        with working(SOURCE=listed) as one, working() as other:
            pulled, stored = filled(one, Toy(rows=ROWS)), filled(other, Toy(rows=ROWS))
    assert (pulled.record.origin, stored.record.origin) == ("peers", "storage")
    assert pulled.record.nbytes == stored.record.nbytes == WEIGHTS.manifest.nbytes
    assert isinstance(pulled.servable, Servable) and isinstance(stored.servable, Servable)
    assert pulled.servable.digests == stored.servable.digests
    assert pulled.servable.digests == tuple(digests.of_weights(WEIGHTS, WEIGHTS.manifest.chunks()))
    assert known(pulled.record.content) == known(stored.record.content)


@pytest.mark.parametrize(
    ("mode", "equal", "stays", "layout"),
    [
        ("no", False, False, "runtime"),
        ("no", True, False, "checkpoint"),
        ("dram", False, True, "checkpoint"),
    ],
)
def test_a_replaced_tensor_goes_back_to_the_system_unless_it_is_kept(
    mode: str, equal: bool, stays: bool, layout: str
) -> None:
    """Neither a step nor its result holds more than was asked for. What took a tensor's place is
    served for it where it has the same bytes, else as what it is."""
    with working(INT8_CACHE=mode) as worker, no_garbage_collector():
        model = Toy(rows=ROWS)
        done = filled(worker, model)
        original = weakref.ref(model.packed.untyped_storage())
        other = model.packed.clone() if equal else model.packed + 1
        model.packed = nn.Parameter(other, requires_grad=False)
        assert (original() is not None) == stays
        result = serve(complete(done, model), model).result(30)
        assert isinstance(result, Served)
        held = worker.membership.holding("target")
        assert held is not None and held.fields["layout"] == layout


def test_a_pull_that_was_given_up_holds_nothing() -> None:
    with sources(wrong_byte_in(0)) as endpoints:
        listed = [{"device_id": 0, "sources": endpoints}]
        with (
            working(SOURCE=listed, SOURCE_TIMEOUT=0, INT8_CACHE="no") as worker,
            no_garbage_collector(),
        ):
            model = Toy(rows=ROWS)
            done = filled(worker, model)
            assert (done.record.origin, len(done.record.tried.skipped) > 0) == ("storage", True)
            original = weakref.ref(model.packed.untyped_storage())
            model.packed = nn.Parameter(model.packed.clone(), requires_grad=False)
            # The thread of its stream may say goodbye yet.
            until(lambda: original() is None)


def test_what_was_shared_while_it_came_holds_nothing_afterwards() -> None:
    with sources(honest) as endpoints:
        listed = [{"device_id": 0, "sources": endpoints}]
        with working(SOURCE=listed, INT8_CACHE="no") as worker, no_garbage_collector():
            model = Toy(rows=ROWS)
            done = filled(worker, model)
            held = worker.membership.holding("target")
            assert held is not None and held.held > 0 and not held.serves
            assert done.record.origin == "peers"
            original = weakref.ref(model.packed.untyped_storage())
            model.packed = nn.Parameter(model.packed.clone(), requires_grad=False)
            # The thread of its stream may say goodbye yet.
            until(lambda: original() is None)


def test_copies_that_nobody_needs_are_gone_once_the_model_is_served() -> None:
    with working(INT8_CACHE="dram") as worker, no_garbage_collector():
        model = Toy(rows=ROWS)
        done = filled(worker, model)
        assert isinstance(done.servable, Servable)
        kept = weakref.ref(done.servable.kept)
        result = serve(complete(done, model), model)
        del done
        assert isinstance(result.result(30), Served)
        assert kept() is None


def test_any_device_is_announced_with_a_transport() -> None:
    with working() as worker:
        planned = plan(request(worker, FakeEngine(device="xpu")))
        assert isinstance(planned, Planned)
        held = worker.membership.holding("target")
        assert held is not None
        assert (held.state, held.backend) == ("loading", "gloo")
        assert held.transports == ("tcp", "gloo", "tcp-sealed")


def test_a_model_that_was_made_elsewhere_is_reported_as_such() -> None:
    with working() as worker:
        planned = plan(request(worker, FakeEngine()))
        assert isinstance(planned, Planned)
        result = serve(made_elsewhere(planned, "made elsewhere"), Toy()).result(30)
        assert isinstance(result, NotServed)
        assert (result.reason, result.record.nbytes) == ("made elsewhere", 0)


def test_a_port_that_is_taken_costs_the_source_alone() -> None:
    with working() as first:
        source = first.sources.listen("target")
        assert source is not None
        one = load([], LISTEN_PORT=source.port)
    assert (one.origin, one.right) == ("storage", True)
    assert one.reason == "its port cannot be listened on"


def test_weights_that_are_withdrawn_while_they_are_checked_are_not_served() -> None:
    with working() as worker:
        model = Toy(rows=ROWS)
        done = filled(worker, model)

        before = worker.sources.withdrawals("target")
        result = serve(complete(done, model), model)
        worker.sources.withdraw("target", "its weights are being reloaded")
        end = result.result(30)
        held = worker.membership.holding("target")
        assert held is not None
        # Whichever came first, nothing is served now, and the reason is the one who withdrew it.
        assert worker.sources.withdrawals("target") == before + 1
        assert isinstance(end, (Served, NotServed))
        assert (held.state, held.reason) == ("unavailable", "its weights are being reloaded")
