"""A load from a server that speaks upstream's protocol, and all that may be wrong with it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.loader.support import Toy, serving, toy_weights
from tests.loader.upstream.ends import GlooCarrier, UpstreamServer
from tests.loader.worker.loading.whole_load import (
    ROWS,
    WEIGHTS,
    FakeEngine,
    Loaded,
    advert,
    load_with,
    sources,
    working,
)
from torch import nn

from netloader.config import MIN_CHUNK_BYTES
from netloader.errors import IdentityError
from netloader.weights.capture import Weights

JOIN = {"device_id": 0, "model_path": "/models/toy", "tp": 2, "pp": 1}
"""What a server of `identity()` expects of rank 0."""

OTHERS = toy_weights(2, rows=ROWS, chunk=MIN_CHUNK_BYTES)
PULLS: dict[str, Any] = {"UPSTREAM": "pull", "TRANSFER_TIMEOUT": 5}


@pytest.fixture
def served() -> Iterator[Callable[[Weights], UpstreamServer]]:
    made: list[UpstreamServer] = []

    def serve(weights: Weights) -> UpstreamServer:
        made.append(UpstreamServer(weights, JOIN))
        return made[-1]

    yield serve
    for server in made:
        server.close()


def engine(**changes: Any) -> FakeEngine:
    """Of a checkpoint that fills parameters only."""
    return FakeEngine(carrier=GlooCarrier(), **{"leaves_out": is_bias} | changes)


def is_bias(name: str) -> bool:
    return name == "bias"


def built() -> Toy:
    """It computes its buffer itself."""
    model = Toy(rows=ROWS)
    model.bias.copy_(Toy(1, ROWS).bias)
    return model


def load(endpoints: list[str], engine: FakeEngine, **extra: Any) -> Loaded:
    listed = [{"device_id": 0, "sources": endpoints}]
    with working(SOURCE=listed, **extra) as worker:
        return load_with(worker, engine, built)


def pulled_from(*servers: UpstreamServer, **changes: Any) -> Loaded:
    return load([one.endpoint for one in servers], engine(**changes), **PULLS)


Serve = Callable[[Weights], UpstreamServer]


def test_a_server_fills_the_model_and_nobody_is_served_after_it(served: Serve) -> None:
    server = served(WEIGHTS)
    loaded = pulled_from(server)
    assert loaded.right and loaded.built == 1
    assert loaded.origin == "peers"
    assert loaded.delivered == {server.endpoint: WEIGHTS.manifest.nbytes}
    assert "only a sample of them was compared" in loaded.reason


def test_the_mesh_and_the_operator_see_how_far_it_is(
    served: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [{"device_id": 0, "sources": [served(WEIGHTS).endpoint]}]
    told: list[tuple[int, int]] = []

    def compare(question: str) -> None:
        if question == "load_sample":
            told.append((advert(worker).held, advert(worker).pulling))

    with working(SOURCE=listed, **PULLS) as worker:
        loaded = load_with(worker, engine(fails_in=compare), built, shows_progress=True)
        assert (loaded.origin, advert(worker).held) == ("peers", 0)
    ((held, pulling),) = told
    assert held > 0
    assert pulling == 0
    assert "Pulling weights from upstream's Netloader: " in capsys.readouterr().err


def test_no_server_is_used_unless_upstream_says_so(served: Serve) -> None:
    server = served(WEIGHTS)
    loaded = load([server.endpoint], engine())
    assert loaded.right and loaded.origin == "storage"
    assert any("vLLM Ascend's own Netloader" in reason for reason in loaded.skipped)
    assert not any(b"JOIN" in heard for heard in server.heard)
    assert server.failed is None, "asking may not end its thread"


def test_peers_that_can_be_verified_come_first(served: Serve) -> None:
    server = served(WEIGHTS)
    with sources(lambda tag, data: data) as (peer,):
        loaded = load([server.endpoint, peer], engine(), **PULLS)
    assert loaded.right and loaded.reason == ""
    assert loaded.delivered == {peer: WEIGHTS.manifest.nbytes}
    assert not any(b"JOIN" in heard for heard in server.heard)


def test_a_peer_that_had_nothing_is_not_asked_again(served: Serve) -> None:
    server = served(WEIGHTS)
    with serving(None) as busy:
        loaded = load([busy.endpoint, server.endpoint], engine(), SOURCE_TIMEOUT=0, **PULLS)
    assert loaded.right and list(loaded.delivered) == [server.endpoint]
    assert not any("asked before" in reason for reason in loaded.skipped)


def test_another_checkpoint_under_the_same_name_is_found_out(served: Serve) -> None:
    loaded = pulled_from(served(OTHERS))
    assert loaded.right and loaded.origin == "storage" and loaded.built == 1
    assert any("other weights than this worker's files" in reason for reason in loaded.skipped)


def test_the_next_server_may_be_right(served: Serve) -> None:
    wrong, right = served(OTHERS), served(WEIGHTS)
    loaded = pulled_from(wrong, right)
    assert loaded.right and list(loaded.delivered) == [right.endpoint]


def test_one_wrong_byte_where_the_sample_looks(served: Serve) -> None:
    server = served(WEIGHTS)

    def flip(number: int, data: torch.Tensor) -> torch.Tensor:
        if number != 1:
            return data
        wrong = data.clone()
        wrong.view(-1).view(torch.uint8)[3] ^= 1
        return wrong

    server.on_send = flip
    loaded = pulled_from(server)
    assert loaded.right and loaded.origin == "storage"


def test_a_server_that_breaks_off_leaves_storage(served: Serve) -> None:
    server = served(WEIGHTS)

    def cut(number: int, data: torch.Tensor) -> torch.Tensor:
        if number == 3:
            raise RuntimeError("cut")
        return data

    server.on_send = cut
    loaded = pulled_from(server)
    assert loaded.right and loaded.origin == "storage" and loaded.built == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"label": "JOIN_NACK", "content": "not today"}, "refused: not today"),
        ({"label": "JOIN_ACK", "content": {"name": "x", "transfer_shapes": {}}}, "INT8_CACHE"),
        ({"label": "WHO_ACK"}, "source of Netloader Mesh"),
        ({"label": "HELLO"}, "no answer of upstream's"),
    ],
)
def test_answers_that_lead_nowhere(served: Serve, answer: dict[str, Any], words: str) -> None:
    server = served(WEIGHTS)
    server.answer = lambda right: answer
    loaded = pulled_from(server)
    assert loaded.right and loaded.origin == "storage"
    assert any(words in reason for reason in loaded.skipped), loaded.skipped


def test_the_main_branchs_cache_is_tried_both_ways(served: Serve) -> None:
    server = served(WEIGHTS)
    server.expects = JOIN | {"int8_cache": "hbm"}
    assert pulled_from(server).origin == "peers"


def test_a_worker_without_files_takes_nothing(served: Serve) -> None:
    server = served(WEIGHTS)
    loaded = load([server.endpoint], engine(files=None), SOURCE_TIMEOUT=1, **PULLS)
    assert any("no weight files to compare with" in reason for reason in loaded.skipped)
    assert not any(b"JOIN" in heard for heard in server.heard)


def test_a_sample_that_cannot_be_read_costs_the_pull(served: Serve) -> None:
    def fails(name: str) -> None:
        if name == "load_sample":
            raise IdentityError("not safetensors")

    loaded = pulled_from(served(WEIGHTS), fails_in=fails)
    assert loaded.right and loaded.origin == "storage"
    assert any("not safetensors" in reason for reason in loaded.skipped)


def test_a_buffer_that_the_checkpoint_fills_is_noticed(served: Serve) -> None:
    loaded = pulled_from(
        served(WEIGHTS), while_loading=lambda model: model.bias.add_(1), leaves_out=is_bias
    )
    assert loaded.origin == "storage"
    assert any("what upstream does not send" in reason for reason in loaded.skipped)


def test_an_attribute_that_the_checkpoint_sets_is_noticed(served: Serve) -> None:
    def sets(model: nn.Module) -> None:
        model.scale = 2.0

    loaded = pulled_from(served(WEIGHTS), while_loading=sets)
    assert loaded.right and loaded.origin == "storage"
    assert any("what upstream does not send" in reason for reason in loaded.skipped)


def test_other_hosts_are_not_asked_without_a_key() -> None:
    loaded = load(["192.0.2.1:9"], engine(), SOURCE_TIMEOUT=0, **PULLS)
    assert loaded.right and loaded.origin == "storage"
    assert any("only servers on this host are asked" in reason for reason in loaded.skipped)


def test_a_silent_server_is_waited_for_as_long_as_for_any_source() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        loaded = load([endpoint], engine(), SOURCE_TIMEOUT=0, **PULLS)
    assert loaded.right and loaded.origin == "storage"
    assert any("says nothing within" in reason for reason in loaded.skipped)
