from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.loader.discovery.test_advert import holding
from tests.loader.support import keys, offer_of, toy_weights

from netloader.config import Config
from netloader.errors import ConfigError
from netloader.worker.membership import Membership
from netloader.worker.position import Position
from netloader.worker.sources import Sources

WEIGHTS = toy_weights(1)
OLD, NEW = keys(b"o" * 32), keys(b"n" * 32)


def made(**extra: object) -> tuple[Sources, Membership]:
    config = Config.load({"MESH": False, "MESH_ADVERTISE": "127.0.0.1", **extra}, {})
    membership = Membership(config, Position())
    return Sources(config, Position(), membership, OLD), membership


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
