"""The dashboard and the alert rules ask for what a worker exports, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.loader.metrics.test_catalogue import everything

from netloader.metrics.catalogue import Metrics
from netloader.telemetry import PullResult

DOCS = Path(__file__).parents[3] / "docs"

SELECTOR = re.compile(r"\b(netloader_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(=~|!=|!~|=)\s*\"([^\"]*)\"")


def dashboard() -> list[str]:
    made: dict[str, Any] = json.loads((DOCS / "metrics" / "dashboard.json").read_text())
    return [target["expr"] for panel in made["panels"] for target in panel["targets"]]


def alerts() -> list[str]:
    made: dict[str, Any] = yaml.safe_load((DOCS / "metrics" / "alerts.yaml").read_text())
    return [rule["expr"] for group in made["groups"] for rule in group["rules"]]


def samples() -> list[tuple[str, dict[str, str]]]:
    """All samples of workers to which everything has happened."""
    metrics = Metrics()
    everything(metrics)
    metrics.pull_ended(PullResult.FAULT, 1.0)
    metrics.stream_ended("corrupt", 1)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return [(one.name, one.labels) for family in families for one in family.samples]


def matches(selector: tuple[str, str], found: list[tuple[str, dict[str, str]]]) -> bool:
    """Whether a selector finds at least one sample. Prometheus adds the label `instance`."""
    name, inside = selector
    wanted = MATCHER.findall(inside)

    def fits(labels: dict[str, str]) -> bool:
        for label, how, value in wanted:
            if label == "instance":
                continue
            equal = labels.get(label) == value
            if (how == "!=" and equal) or (how == "=" and not equal) or label not in labels:
                return False
        return True

    return any(name == one and fits(labels) for one, labels in found)


@pytest.mark.parametrize("expression", [*dashboard(), *alerts()])
def test_every_query_finds_samples(expression: str) -> None:
    selectors = SELECTOR.findall(expression)
    assert selectors
    found = samples()
    assert [one for one in selectors if not matches(one, found)] == []


def test_the_check_finds_a_query_without_samples() -> None:
    found = samples()
    assert not matches(("netloader_pulls_ended_total", ""), found)
    assert not matches(("netloader_pulls_finished_total", 'result="done"'), found)
    assert not matches(("netloader_mesh_probes_total", 'rank="0"'), found)
    assert matches(("netloader_pulls_finished_total", 'result!="complete"'), found)


def test_every_metric_is_on_the_dashboard_and_in_the_page() -> None:
    shown = " ".join(dashboard())
    page = (DOCS / "metrics.md").read_text()
    names = {name for name, _ in samples() if not name.endswith("_created")}
    for name in {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}:
        assert name in shown, f"{name} is on no panel"
        assert f"`{name}`" in page, f"{name} is not in docs/metrics.md"
