"""What a process has once, without a mesh and with one on loopback."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.discovery.test_advert import holding
from tests.loader.support import (
    GENERATION,
    OnSend,
    TamperedBackend,
    calling,
    candidate,
    ended_by,
    equal,
    hello,
    identity,
    offer_of,
    pull_from,
    pull_into,
    toy_weights,
    until,
    wrong_byte_in,
)
from tests.mesh.test_ports import free_range
from tests.meshes import OWN_MESH

from netloader.config import Config
from netloader.discovery.candidate import Process
from netloader.protocol import messages
from netloader.replica.observer import PullObserver
from netloader.replica.outcome import Corrupt
from netloader.source.offer import Offer
from netloader.source.service import Source
from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend
from netloader.worker.position import Position
from netloader.worker.process import Worker

Start = Callable[..., Worker]
WEIGHTS = toy_weights(1)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts workers that find each other in a folder of this test and nowhere else."""
    for key in [key for key in os.environ if key.startswith("NETLOADER_")]:
        monkeypatch.delenv(key)
    started: list[Worker] = []

    def one(rank: int | Position = 0, **extra: object) -> Worker:
        position = Position.alone(rank) if isinstance(rank, int) else rank
        settings = {
            "MESH_NAME": OWN_MESH,
            "MESH_DIRECTORY": str(tmp_path / "mesh"),
            "MESH_ADVERTISE": "127.0.0.1",
        }
        made = Worker(Config.load({**settings, **extra}, {}), position)
        started.append(made)
        return made

    yield one
    for made in started:
        made.close()


def load(worker: Worker) -> Source:
    """Say that it is loading."""
    source = worker.sources.listen("target")
    assert source is not None
    worker.membership.announce(**dict(holding(state="loading", endpoint=source.endpoint)))
    return source


def serve(worker: Worker, offer: Offer | None = None) -> Source:
    source = load(worker)
    worker.sources.serve("target", offer or offer_of(WEIGHTS))
    return source


def tampered(on_send: OnSend) -> Offer:
    return offer_of(WEIGHTS, backend=TamperedBackend(on_send, GlooBackend()))


def test_without_a_mesh_only_the_static_sources_are_candidates(start: Start) -> None:
    sources = [{"device_id": 1, "sources": ["127.0.0.1:2000"]}]
    found, skipped = start(1, MESH=False, SOURCE=sources).peers.candidates(identity(), ("gloo",))
    assert [(one.endpoint, one.found_by, one.generation) for one in found] == [
        ("127.0.0.1:2000", "SOURCE", None)
    ]
    assert skipped == ["mesh: off"]


def test_list_without_this_rank_is_said(start: Start) -> None:
    sources = [{"device_id": 1, "sources": ["127.0.0.1:2000"]}]
    found, skipped = start(0, MESH=False, SOURCE=sources).peers.candidates(identity(), ("gloo",))
    assert found == ()
    assert skipped[0] == "SOURCE has no entry for rank 0"


def test_a_drafts_static_sources_listen_where_upstreams_do(start: Start) -> None:
    sources = [{"device_id": 0, "sources": ["127.0.0.1:2000", "[::1]:56000"]}]
    worker = start(0, MESH=False, SOURCE=sources)
    found, _ = worker.peers.candidates(identity(role="draft"), ("gloo",))
    assert [one.endpoint for one in found] == ["127.0.0.1:12000"]


def test_what_was_withdrawn_meanwhile_is_not_served(start: Start) -> None:
    worker = start(0, MESH=False)
    source = load(worker)
    withdrawals = worker.sources.withdrawals("target")
    worker.sources.withdraw("target", "reloading")
    assert not worker.sources.serve("target", offer_of(WEIGHTS), withdrawals)
    with calling(source) as caller:
        refusal = caller.ask(hello(WEIGHTS, generation=None))
    assert isinstance(refusal, messages.Refuse)
    assert (refusal.code, refusal.reason) == ("not-ready", "reloading")
    assert worker.sources.serve("target", offer_of(WEIGHTS), worker.sources.withdrawals("target"))


def test_holdings_are_alike_by_all_that_is_known_before_a_model_is_built(start: Start) -> None:
    first, second = start(0), start(1)
    serve(first)
    unbuilt = identity(built={"tp_size": 2})
    until(lambda: second.peers.alike(unbuilt))
    (found,) = second.peers.alike(unbuilt)
    assert found.endpoint == first.sources.listen("target").endpoint  # type: ignore[union-attr]
    assert second.peers.alike(identity(config={})) != []
    assert second.peers.alike(identity(dtype="int8")) == []
    assert start(2, MESH=False).peers.alike(unbuilt) == []


def test_what_the_mesh_offers_is_told_with_its_content_id(start: Start) -> None:
    first, second = start(0), start(1)
    serve(first)
    first.membership.update("target", content={"sample": "c0ffee"})
    until(lambda: second.peers.offers(identity()))
    assert second.peers.offers(identity()) == [
        f"{first.membership.name} has toy as CONTENT=sample:c0ffee"
    ]
    assert second.peers.offers(identity(dtype="int8")) == []


def test_ready_worker_writes_its_address_for_upstreams_tools(start: Start, tmp_path: Path) -> None:
    worker = start(3, MESH=False, OUTPUT_PREFIX=f"{tmp_path}/at_")
    source = serve(worker)
    assert (tmp_path / "at_3.txt").read_text() == source.endpoint


def test_port_that_is_taken_costs_the_source_not_the_start(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert start(0, MESH=False, LISTEN_PORT=port).sources.listen("target") is None
    assert f"cannot listen on 127.0.0.1:{port}" in caplog.text
    assert "give each server of this host a LISTEN_PORT of its own" in caplog.text


def test_source_of_a_role_is_made_once(start: Start) -> None:
    worker = start(0, MESH=False)
    assert worker.sources.listen("target") is worker.sources.listen("target")
    assert worker.sources.listen("target") is not worker.sources.listen("draft")


def test_withdrawn_worker_says_why(start: Start) -> None:
    worker = start(0, MESH=False)
    serve(worker)
    worker.sources.withdraw("target", "asleep")
    held = worker.membership.holding("target")
    assert held is not None
    assert (held.state, held.reason) == ("unavailable", "asleep")


def test_two_workers_find_each_other_and_share(start: Start) -> None:
    first, second = start(0), start(1)
    serve(first)
    until(lambda: second.peers.candidates(identity(), ("gloo",))[0])
    (found, *_), skipped = second.peers.candidates(identity(), ("gloo",))
    assert found.generation == first.membership.generation
    assert skipped == []
    replica = toy_weights()
    pull_from(pull_into(replica), found)
    assert equal(replica, WEIGHTS)


def test_settings_of_a_source_hold(start: Start) -> None:
    source = serve(start(0, MESH=False, MAX_SESSIONS=1, RATE_LIMIT=1_000_000))
    anyone = hello(WEIGHTS, generation=None)
    with calling(source) as first, calling(source) as second:
        accept = first.ask(anyone)
        assert isinstance(accept, messages.Accept)
        assert accept.message_bytes == 196_608
        refusal = second.ask(anyone)
        assert isinstance(refusal, messages.Refuse)
        assert (refusal.code, refusal.retry_after_s) == ("busy", 1.0)


def test_worker_whose_weights_have_changed_tells_the_mesh(start: Start) -> None:
    worker, onlooker = start(0), start(1)
    weights = toy_weights(1)
    source = serve(worker, offer_of(weights))
    until(lambda: onlooker.peers.find(identity(), ("gloo",)))
    weights.tensors[0].view(-1)[5] += 1
    with ended_by(Corrupt):
        pull_from(pull_into(toy_weights()), candidate(source, worker.membership.generation))
    until(lambda: not onlooker.peers.find(identity(), ("gloo",)))
    held = worker.membership.holding("target")
    assert held is not None
    assert (held.state, "changed" in held.reason) == ("unavailable", True)


def test_a_liar_is_reported_to_everybody_and_avoided(start: Start) -> None:
    liar, honest, accuser, onlooker = (start(rank) for rank in range(4))
    source = serve(liar, tampered(lambda tag, data: wrong_byte_in(tag)(tag, data)))
    serve(honest)
    honest.membership.update("target", serving=3)
    load(accuser)
    culprit: Process = (source.endpoint, liar.membership.generation)

    def found(by: Worker) -> list[Process]:
        return [(one.endpoint, one.generation or 0) for one in by.peers.find(identity(), ("gloo",))]

    for one in (accuser, onlooker):
        until(lambda one=one: len(found(one)) == 2 and found(one)[0] == culprit)  # type: ignore[misc]
    pull = pull_into(
        toy_weights(),
        observer=PullObserver(accused=lambda process: accuser.accusations.add("target", process)),
    )
    with ended_by(Corrupt):
        pull_from(pull, candidate(source, None))
    # Its victim does not ask it again; others do when nobody else is left.
    assert culprit not in found(accuser)
    assert "sent other bytes" in accuser.peers.candidates(identity(), ("gloo",))[1][0]
    until(lambda: found(onlooker)[-1] == culprit)
    assert len(found(onlooker)) == 2


def test_a_worker_that_joins_the_mesh_in_the_middle_of_a_pull_helps(start: Start) -> None:
    first, replica = start(0), start(1)
    helped = threading.Event()
    begun = threading.Event()

    def alone(tag: int, data: torch.Tensor) -> torch.Tensor:
        begun.set()
        assert helped.wait(HANG_S)
        return data

    def help_out(tag: int, data: torch.Tensor) -> torch.Tensor:
        helped.set()
        return data

    serve(first, tampered(alone))
    until(lambda: replica.peers.find(identity(), ("gloo",)))
    second = start(2)

    def join() -> None:
        assert begun.wait(HANG_S)
        serve(second, tampered(help_out))

    joining = threading.Thread(target=join)
    joining.start()
    weights = toy_weights()
    pull = pull_into(weights, timeout_s=10)
    pull.run(lambda: replica.peers.find(identity(), ("gloo",)))
    joining.join()
    assert equal(weights, WEIGHTS)
    assert len(pull.deliveries) == 2


def test_nobody_with_these_weights_is_said(start: Start) -> None:
    found, skipped = start(0).peers.candidates(identity(), ("gloo",))
    assert found == ()
    assert skipped[-1] == "mesh: nobody else holds toy (target)"


def test_source_refuses_who_expects_another_process(start: Start) -> None:
    source = serve(start(0, MESH=False))
    with pytest.raises(Exception, match=f"not {GENERATION}: restarted"):
        pull_from(pull_into(toy_weights()), candidate(source))


def test_every_port_is_one_of_the_range(start: Start) -> None:
    ports = free_range(40)
    before = listening_ports()
    worker = start(PORT_RANGE=str(ports))
    source = serve(worker, offer_of(WEIGHTS, backend=TcpBackend()))
    draft = worker.sources.listen("draft", "npu")
    assert draft is not None
    with calling(source) as caller:
        accept = caller.ask(hello(WEIGHTS, generation=None, backend="tcp"))
        assert isinstance(accept, messages.Accept)
        opened = listening_ports() - before
        assert len(opened) == 4  # Of the mesh, of two models, of the session.
        assert opened <= set(ports.all)
        assert accept.port in opened


def listening_ports() -> set[int]:
    """Ports on which this process listens."""
    numbers = set()
    for name in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            numbers.add(name.readlink().name)
    rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    listens = [row.split() for row in rows if row.split()[3] == "0A"]
    return {int(row[1].split(":")[1], 16) for row in listens if f"socket:[{row[9]}]" in numbers}


def test_data_parallel_engines_of_a_dense_model_may_share_an_entry(start: Start) -> None:
    one = {"device_id": 1, "sources": ["127.0.0.1:2000"]}
    own = {"device_id": 3, "sources": ["127.0.0.1:3000"]}
    second = Position(rank=3, part=1, on_host=3)

    def found(*entries: object) -> list[str]:
        worker = start(second, MESH=False, SOURCE=list(entries))
        return [one.endpoint for one in worker.peers.candidates(identity(), ("gloo",))[0]]

    assert found(one) == ["127.0.0.1:2000"]
    assert found(one, own) == ["127.0.0.1:3000"]


def test_ports_that_were_set_are_each_processs_own(start: Start) -> None:
    ports = free_range(8)
    settings = {"MESH_PORT": ports.first, "LISTEN_PORT": ports.first + 4}
    for number in range(2):
        worker = start(Position(number, 0, number), **settings)
        assert worker.membership.name == f"127.0.0.1:{ports.first + number}"
        assert serve(worker).endpoint == f"127.0.0.1:{ports.first + 4 + number}"


def test_a_model_that_is_gone_is_announced_no_longer_and_its_weights_are_let_go(
    start: Start,
) -> None:
    weights = toy_weights(1)
    held = weakref.ref(weights.tensors[0])
    first, second = start(0), start(1)
    serve(first, offer_of(weights))
    del weights
    until(lambda: second.peers.find(identity(), ("gloo",)))
    first.release("target")
    gc.collect()
    assert held() is None
    assert first.sources.endpoint("target") is None
    until(lambda: not second.peers.find(identity(), ("gloo",)))
    assert serve(first).endpoint  # For the next model.
