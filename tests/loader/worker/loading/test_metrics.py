"""What loads, pulls and sessions of real workers add to the metrics."""

from __future__ import annotations

import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.fastest import HANG_S
from tests.free_ports import free_port
from tests.loader.support import (
    OnSend,
    Toy,
    cut_after,
    wrong_byte_in,
)
from tests.loader.worker.loading.whole_load import (
    ROWS,
    WEIGHTS,
    FakeEngine,
    load_with,
    sources,
    working,
)

from netloader.config import Config
from netloader.errors import ConfigError


def scrape(port: int) -> dict[str, float]:
    """Every sample of a worker, as `name{label=value,...}`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANG_S) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={sample.labels[name]}" for name in sorted(sample.labels))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def loaded(*faults: OnSend, **extra: object) -> dict[str, float]:
    """The metrics of a worker that has loaded a model from sources with these faults."""
    port = free_port()
    with ExitStack() as stack:
        endpoints = stack.enter_context(sources(*faults))
        listed = [{"device_id": 0, "sources": endpoints}]
        worker = stack.enter_context(
            working(SOURCE=listed, METRICS_PORT=port, SOURCE_TIMEOUT=0, **extra)
        )
        assert load_with(worker, FakeEngine(), lambda: Toy(rows=ROWS)).right
        return scrape(port)


def test_a_pull_that_completes_is_a_hit() -> None:
    seen = loaded(lambda tag, data: data)
    assert seen["netloader_pulls_started_total"] == 1
    assert seen["netloader_pulls_finished_total{result=complete}"] == 1
    assert seen["netloader_pulled_bytes_total{transport=tcp}"] == WEIGHTS.manifest.nbytes
    assert seen["netloader_loads_total{origin=peers,role=target}"] == 1
    assert "netloader_loads_total{origin=storage,role=target}" not in seen


def test_a_source_that_is_lost_leaves_its_chunks_to_storage() -> None:
    seen = loaded(cut_after(1))
    assert seen["netloader_pulls_finished_total{result=no-source-left}"] == 1
    assert seen["netloader_streams_ended_total{outcome=lost}"] == 1
    assert seen["netloader_chunks_retried_total{reason=lost}"] >= 1
    assert seen["netloader_loads_total{origin=storage,role=target}"] == 1


def test_wrong_bytes_are_counted_as_such() -> None:
    seen = loaded(wrong_byte_in(0))
    assert seen["netloader_streams_ended_total{outcome=corrupt}"] == 1


def test_without_a_source_nothing_is_pulled() -> None:
    seen = loaded()
    assert seen["netloader_pulls_started_total"] == 0
    assert seen["netloader_loads_total{origin=storage,role=target}"] == 1


def test_a_port_beyond_the_last_is_refused_in_words() -> None:
    config = Config.load({"METRICS_PORT": 65_530}, {})
    assert config.metrics_address(5) == ("127.0.0.1", 65_535)
    with pytest.raises(ConfigError, match=r"METRICS_PORT=65530 .* \+ rank 6 = 65536"):
        config.metrics_address(6)
