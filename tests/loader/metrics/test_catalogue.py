"""What each event adds to which metric, and that the names keep Prometheus' rules."""

from __future__ import annotations

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.loader.metrics.naming import faults

from netloader.metrics.catalogue import Metrics
from netloader.telemetry import PullResult, Telemetry


def scraped(metrics: Metrics) -> dict[str, Metric]:
    """What Prometheus would read, by name."""
    text = generate_latest(metrics.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def everything(metrics: Telemetry) -> None:
    """Tell each event once."""
    metrics.pull_started()
    metrics.pull_ended(PullResult.COMPLETE, 2.0)
    metrics.waited("source", 20.0)
    metrics.delivered("tcp", 100)
    metrics.stream_ended("lost", 3)
    metrics.loaded("peers", "target", 2.0)
    metrics.sessions("target", 2)
    metrics.session_ended("done", "tcp", 1000, 0.5)
    metrics.refused("busy")
    metrics.mesh(
        {"alive": 3, "dead": 1},
        {
            "sent": 5,
            "received": 6,
            "sent_bytes": 50,
            "received_bytes": 60,
            "probes": 7,
            "suspicions": 8,
            "dropped.malformed": 9,
            "error.dial": 10,
            "links.opened": 11,
        },
    )


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ("netloader_pulls_started_total", {}, 1),
        ("netloader_pulls_finished_total", {"result": "complete"}, 1),
        ("netloader_pull_duration_seconds_sum", {"result": "complete"}, 2),
        ("netloader_pulled_bytes_total", {"transport": "tcp"}, 100),
        ("netloader_streams_ended_total", {"outcome": "lost"}, 1),
        ("netloader_chunks_retried_total", {"reason": "lost"}, 3),
        ("netloader_loads_total", {"origin": "peers", "role": "target"}, 1),
        ("netloader_load_duration_seconds_count", {"origin": "peers"}, 1),
        ("netloader_sessions", {"role": "target"}, 2),
        ("netloader_sessions_finished_total", {"outcome": "done", "transport": "tcp"}, 1),
        ("netloader_served_bytes_total", {"transport": "tcp"}, 1000),
        ("netloader_rate_limit_wait_seconds_total", {}, 0.5),
        ("netloader_sessions_refused_total", {"code": "busy"}, 1),
        ("netloader_mesh_members", {"status": "alive"}, 3),
        ("netloader_mesh_members", {"status": "dead"}, 1),
        ("netloader_mesh_messages_total", {"direction": "sent"}, 5),
        ("netloader_mesh_messages_total", {"direction": "received"}, 6),
        ("netloader_mesh_bytes_total", {"direction": "sent"}, 50),
        ("netloader_mesh_bytes_total", {"direction": "received"}, 60),
        ("netloader_mesh_probes_total", {}, 7),
        ("netloader_mesh_suspicions_total", {}, 8),
        ("netloader_mesh_dropped_total", {"reason": "malformed"}, 9),
        ("netloader_mesh_errors_total", {"where": "dial"}, 10),
    ],
)
def test_each_event_counts_once(
    metrics: Metrics, sample: str, labels: dict[str, str], expected: float
) -> None:
    everything(metrics)
    assert value(metrics, sample, **labels) == expected


def test_the_mesh_s_counters_are_totals_and_are_added_once(metrics: Metrics) -> None:
    for total in (5, 5, 9):
        metrics.mesh({}, {"sent": total})
    assert value(metrics, "netloader_mesh_messages_total", direction="sent") == 9


def test_a_source_without_unfinished_chunks_is_no_retry(metrics: Metrics) -> None:
    metrics.stream_ended("finished", 0)
    assert value(metrics, "netloader_chunks_retried_total", reason="finished") is None


def test_the_base_class_takes_every_event_and_counts_nothing() -> None:
    everything(Telemetry())


def test_all_names_keep_the_rules(metrics: Metrics) -> None:
    everything(metrics)
    families = scraped(metrics)
    assert len(families) > 15
    assert {name: faults(family) for name, family in families.items() if faults(family)} == {}


def test_the_rules_find_what_is_wrong() -> None:
    def named(name: str, kind: str, text: str = "A text.") -> Metric:
        made = Metric(name, text, kind)
        made.add_sample(name, {"pid": "1"}, 1.0)
        return made

    assert len(faults(named("Other_pulls", "counter", ""))) == 4
    assert len(faults(named("netloader_wait_ms", "histogram"))) == 3
    assert len(faults(named("netloader_gauge_total", "gauge"))) == 3
