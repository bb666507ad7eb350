"""Loads from a source that holds only what post-processing left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.support import Toy
from tests.loader.worker.loading.whole_load import (
    ROWS,
    FakeEngine,
    Loaded,
    advert,
    load_with,
    request,
    working,
)
from torch import nn

from netloader.config import MIN_CHUNK_BYTES
from netloader.model import processed
from netloader.worker.loading.adopt import Prepared
from netloader.worker.loading.build import build
from netloader.worker.loading.fill import fill
from netloader.worker.loading.finish import Complete, finish
from netloader.worker.loading.plan import plan
from netloader.worker.loading.serve import NotServed, Served, serve
from netloader.worker.process import Worker

Process = Callable[[nn.Module], object]


class Kernel:
    """Made by post-processing."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.scale = float(weight.to(torch.float64).abs().sum())
        self.derived = [weight[::2] + 1]


def pack(model: nn.Module) -> None:
    """Replaces a tensor, adds some, and keeps a number beside them."""
    assert isinstance(model, Toy)
    packed = model.packed.data
    model.packed = nn.Parameter((packed * 3).t().contiguous(), requires_grad=False)
    model.kernel = Kernel(packed)  # type: ignore[assignment]
    model.W_UV = model.embed.weight.data[:100].t()


def by_shape(model: nn.Module) -> None:
    """What comes out depends on the values that go in."""
    pack(model)
    assert isinstance(model, Toy)
    model.chosen = model.packed.data[model.packed.data > 3]


def by_flag(model: nn.Module) -> None:
    pack(model)
    assert isinstance(model, Toy)
    model.wide = bool((model.packed.data > 100).any())  # type: ignore[assignment]


def by_division(model: nn.Module) -> None:
    """Fails with dummies."""
    pack(model)
    assert isinstance(model, Toy)
    model.ratio = 1 // int(model.packed.data.abs().max())  # type: ignore[assignment]


def name_what_is_used(model: nn.Module) -> None:
    """`load_weights` of experts says which of their tensors the checkpoint had."""
    model.named = {"packed"}  # type: ignore[assignment]


def by_name(model: nn.Module) -> None:
    """Post-processing reads that, drops what is not named, and uses the names up."""
    named = model.named
    assert isinstance(named, set)
    if "packed" not in named:
        model.packed = None  # type: ignore[assignment]
    named.clear()
    pack_if_there(model)


def pack_if_there(model: nn.Module) -> None:
    if model.packed is not None:
        pack(model)


class Handle:
    def __del__(self) -> None:
        """Would free a library's copy of weights."""


def by_handle(model: nn.Module) -> None:
    pack(model)
    model.handle = Handle()  # type: ignore[assignment]


def toy() -> Toy:
    made = Toy(rows=ROWS)
    # Computed by each worker for itself.
    made.flag.fill_(True)
    return made


@contextmanager
def a_source(process: Process, *sources: str, keep: str = "no") -> Iterator[Loaded]:
    with worker_of(*sources, keep=keep) as worker:
        yield load_with(worker, FakeEngine(process=process), toy)


def worker_of(*sources: str, keep: str = "no") -> AbstractContextManager[Worker]:
    listed = [{"device_id": 0, "sources": list(sources)}]
    return working(SOURCE=listed, INT8_CACHE=keep, SOURCE_TIMEOUT=0)


def loaded(process: Process, *sources: str, kernel: str = "plain") -> Loaded:
    with worker_of(*sources) as worker:
        return load_with(worker, FakeEngine(process=process, kernel=kernel), toy)


def endpoint(one: Loaded) -> str:
    assert isinstance(one.end, Served), one.reason
    return one.end.endpoint


def layout(worker: Worker) -> object:
    held = worker.membership.holding("target")
    return held.fields["layout"] if held is not None else None


def contents(model: nn.Module) -> dict[str, object]:
    """Everything that a model holds, its tensors as they are in its own memory."""
    taken = processed.take(model, MIN_CHUNK_BYTES)
    tensors = zip(taken.weights.manifest.tensors, taken.weights.tensors, strict=True)
    return {tensor.name: data.numpy().tobytes() for tensor, data in tensors} | {
        "state": taken.state,
        "numbers": taken.floats,
    }


def test_a_replica_equals_its_source_in_everything_and_becomes_one() -> None:
    with a_source(pack) as source, a_source(pack, endpoint(source)) as replica:
        second = loaded(pack, endpoint(replica))
        for one in (replica, second):
            assert (one.origin, one.built, one.reason) == ("peers", 1, "")
            assert contents(one.model) == contents(source.model)
        assert [*replica.delivered] == [endpoint(source)]
        assert [*second.delivered] == [endpoint(replica)]
        assert contents(source.model) == contents(loaded(pack).model)


def test_the_mesh_is_told_how_far_such_a_pull_is() -> None:
    with a_source(pack) as source, worker_of(endpoint(source)) as worker:
        engine, model = FakeEngine(process=pack), toy()
        filled = fill(build(plan(request(worker, engine)), model), model)
        assert isinstance(filled, Prepared)
        pack(model)
        assert advert(worker).held == 0
        complete = finish(filled, model)
        assert isinstance(complete, Complete)
        told = advert(worker)
        assert told.held == complete.record.nbytes > 0
        assert (told.rate, told.feeds, told.sharing) == (0, (), False)
        serve(complete, model).result(HANG_S)
        assert advert(worker).held == 0


@pytest.mark.parametrize(
    ("keep", "expected"), [("no", "runtime"), ("dram", "checkpoint"), ("hbm", "checkpoint")]
)
def test_a_source_that_has_both_offers_what_it_loaded(keep: str, expected: str) -> None:
    with worker_of(keep=keep) as worker:
        one = load_with(worker, FakeEngine(process=pack), toy)
        assert (one.reason, layout(worker)) == ("", expected)


def test_weights_as_loaded_are_preferred() -> None:
    with a_source(pack) as left, a_source(pack, keep="dram") as kept:
        one = loaded(pack, endpoint(left), endpoint(kept))
        assert [*one.delivered] == [endpoint(kept)]
        assert one.right
        assert contents(one.model) == contents(left.model)


def test_another_kernel_choice_is_refused_before_anything_is_touched() -> None:
    with a_source(pack) as source:
        one = loaded(pack, endpoint(source), kernel="marlin")
    assert (one.origin, one.right, one.built) == ("storage", True, 1)
    assert any("kernel.Toy: mine 'plain', theirs 'marlin'" in reason for reason in one.skipped)


@pytest.mark.parametrize(
    ("process", "reason"),
    [
        (by_shape, "our tensors differ"),
        (by_flag, "post-processing has left other things than tensors in the model"),
        (by_division, "post-processing of dummies failed: ZeroDivisionError"),
    ],
)
def test_what_depends_on_values_is_refused_and_storage_fills_a_new_model(
    process: Process, reason: str
) -> None:
    with a_source(process) as source:
        one = loaded(process, endpoint(source))
        assert (one.origin, one.right, one.built) == ("storage", True, 2)
        assert any(reason in said for said in one.skipped), one.skipped
        assert contents(one.model) == contents(source.model)


def test_values_outside_of_tensors_make_no_source() -> None:
    with a_source(by_handle) as source:
        assert isinstance(source.end, NotServed)
        assert "INT8_CACHE" in source.reason
        assert "Handle, which owns something outside Python" in source.reason


def test_what_load_weights_sets_is_there_when_dummies_are_post_processed() -> None:
    def toy_with_names() -> Toy:
        made = toy()
        made.named = set()  # type: ignore[assignment]
        return made

    engine = FakeEngine(process=by_name, while_loading=name_what_is_used)
    with worker_of() as first, ExitStack() as stack:
        source = load_with(first, engine, toy_with_names)
        chain = [source]
        for _ in "23":
            worker = stack.enter_context(worker_of(endpoint(chain[-1])))
            chain.append(load_with(worker, engine, toy_with_names))
            assert (chain[-1].origin, chain[-1].built) == ("peers", 1), chain[-1].skipped
            assert contents(chain[-1].model) == contents(source.model)
        assert layout(first) == "runtime"


def test_numbers_that_come_of_weights_travel() -> None:
    with a_source(pack) as source:
        one = loaded(pack, endpoint(source))
        assert one.origin == "peers"
        assert isinstance(one.model.kernel, Kernel) and isinstance(source.model.kernel, Kernel)
        assert one.model.kernel.scale == source.model.kernel.scale > 0


def test_a_surprise_costs_this_layout_alone() -> None:
    def fail(asked: str) -> None:
        if asked == "processed_parts":
            raise ZeroDivisionError(asked)

    with worker_of() as worker:
        engine = FakeEngine(process=pack, fails_in=fail)
        one = load_with(worker, engine, toy)
    assert (one.origin, one.right) == ("storage", True)
    assert "runtime layout: cannot tell which weights it needs" in one.reason
