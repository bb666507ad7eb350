from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.loader.discovery.test_advert import holding
from tests.loader.support import calling, hello, keys, offer_of, toy_weights, until

from netloader.config import Config
from netloader.errors import ConfigError
from netloader.metrics.catalogue import Metrics
from netloader.protocol import messages
from netloader.telemetry import SILENT, Telemetry
from netloader.worker.membership import Membership
from netloader.worker.position import Position
from netloader.worker.sources import Sources

WEIGHTS = toy_weights(1)
OLD, NEW = keys(b"o" * 32), keys(b"n" * 32)


def made(telemetry: Telemetry = SILENT, **extra: object) -> tuple[Sources, Membership]:
    config = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", **extra}, {})
    membership = Membership(config, Position())
    return Sources(config, Position(), membership, OLD, telemetry), membership


@pytest.fixture
def sources() -> Iterator[Sources]:
    one, _ = made()
    yield one
    one.close()


def test_threads_that_listen_at_once_share_one_source(sources: Sources) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: sources.listen("target"), range(16)))
    (source,) = found
    assert source is not None
    assert sources.endpoint("target") == source.endpoint


def test_nothing_is_served_where_nothing_listens(sources: Sources) -> None:
    assert sources.endpoint("target") is None
    assert not sources.serve("target", offer_of(WEIGHTS))


def test_port_that_leaves_the_range_is_an_error() -> None:
    one, _ = made(LISTEN_PORT=65_535)
    with pytest.raises(ConfigError, match="must be at most 65535"):
        one.listen("draft")


def test_weights_that_were_withdrawn_since_are_not_served(sources: Sources) -> None:
    sources.listen("target")
    before = sources.withdrawals("target")
    sources.withdraw("target", "reloading")
    assert not sources.serve("target", offer_of(WEIGHTS), before)
    assert sources.serve("target", offer_of(WEIGHTS), sources.withdrawals("target"))


def test_other_models_are_not_withdrawn_with_one(sources: Sources) -> None:
    sources.listen("draft")
    sources.withdraw("target", "reloading")
    assert (sources.withdrawals("target"), sources.withdrawals("draft")) == (1, 0)


def test_what_is_served_and_withdrawn_is_published() -> None:
    one, membership = made()
    one.listen("target")
    membership.announce(**dict(holding(state="loading")))
    assert one.serve("target", offer_of(WEIGHTS))
    assert membership.holding("target") == holding(nbytes=WEIGHTS.manifest.nbytes)
    one.withdraw("target", "asleep")
    held = membership.holding("target")
    assert held is not None
    assert (held.state, held.reason) == ("unavailable", "asleep")
    one.close()


def test_sessions_and_refusals_are_published_and_counted() -> None:
    metrics = Metrics()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    def serving() -> int:
        held = membership.holding("target")
        assert held is not None
        return held.serving

    one, membership = made(metrics)
    source = one.listen("target")
    assert source is not None
    membership.announce(**dict(holding(state="loading")))
    assert one.serve("target", offer_of(WEIGHTS))
    with calling(source, OLD) as caller:
        session = caller.accepted(WEIGHTS, generation=membership.generation)
        until(lambda: serving() == 1)
        assert value("netloader_sessions", role="target") == 1
        caller.send(messages.Bye(session=session.session, reason="enough"))
        ended = {"outcome": "aborted", "transport": "memory"}
        until(lambda: value("netloader_sessions_finished_total", **ended) == 1)
        until(lambda: serving() == 0)
        caller.send(hello(toy_weights(rows=3), generation=membership.generation))
        assert isinstance(caller.receive(), messages.Refuse)
        until(lambda: value("netloader_sessions_refused_total", code="manifest") == 1)
    one.close()


def test_a_file_that_cannot_be_written_costs_no_source(tmp_path: Path) -> None:
    one, _ = made(OUTPUT_PREFIX=f"{tmp_path}/none/at_")
    one.listen("target")
    assert one.serve("target", offer_of(WEIGHTS))
    one.close()


def test_keys_that_change_are_those_of_the_next_connection(sources: Sources) -> None:
    sources.listen("target")
    assert sources.security == OLD
    sources.rekey(NEW)
    assert sources.security == NEW
