"""Prometheus' rules for the names of metrics, as `promtool check metrics` knows them, and ours.

`promtool` itself is asked as well where it is installed. It is no part of the environment.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

_UNITS: Final = {"seconds", "bytes", "ratio", "info"}


def faults(family: Metric) -> list[str]:
    """What Prometheus' naming rules say against a metric."""
    found = []
    name, kind = family.name, family.type
    if not family.documentation.strip().endswith("."):
        found.append("its help is no sentence")
    if not re.fullmatch(r"netloader(_[a-z0-9]+)+", name):
        found.append("it is not in snake case with our prefix")
    if kind == "counter" and not all(
        sample.name.endswith("_total") or sample.name.endswith("_created")
        for sample in family.samples
    ):
        found.append("a counter ends with _total")
    if kind != "counter" and name.endswith(("_total", "_count", "_sum", "_bucket")):
        found.append(f"a {kind} must not end like a counter or a histogram's part")
    if {"counter", "gauge", "histogram", "summary"} & set(name.split("_")):
        found.append("its kind is not part of its name")
    if re.search(r"_(ms|milliseconds|minutes|kb|mb|gb|kilobytes|megabytes)(_|$)", name):
        found.append("it has no base unit")
    if kind == "histogram" and name.rpartition("_")[2] not in _UNITS:
        found.append("a histogram names its unit")
    labels = {label for sample in family.samples for label in sample.labels}
    if labels & {"pid", "rank", "host", "instance", "job", "member", "endpoint", "peer"}:
        found.append("a label tells processes or peers apart")
    return found


def complaints(scraped: str, prefix: str = "netloader_") -> dict[str, list[str]]:
    """What is wrong with the metrics of a scrape whose names begin with `prefix`, by name."""
    found = {
        family.name: faults(family)
        for family in text_string_to_metric_families(scraped)
        if family.name.startswith(prefix)
    }
    assert found, "the scrape has none of our metrics"
    promtool = shutil.which("promtool")
    if promtool is not None:
        ours = "\n".join(line for line in scraped.splitlines() if prefix in line) + "\n"
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=ours, capture_output=True, text=True, timeout=60
        )
        found["promtool"] = (checked.stdout + checked.stderr).splitlines()
    return {name: faulty for name, faulty in found.items() if faulty}
