"""Every metric of a worker: its name, its help text and its labels.

Names follow Prometheus' rules: base units, `_total` for counters. No label tells processes or
peers apart: Prometheus adds the instance, and labels of an open set would grow without bound.

Where the engine's processes share a directory for metrics, gauges of several ranks become one
number: sessions are added up, and of the mesh, which all ranks see alike, the largest counts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from netloader.telemetry import PullResult, Telemetry

SECONDS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Bounds of the histograms: from a small model on one host to a large one from slow storage."""

_DROPPED: Final = "dropped."
_FAILED: Final = "error."


class Metrics(Telemetry):
    """Counts in a registry of its own. Thread safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._before: dict[str, int] = {}
        self._sampling = threading.Lock()
        self._pulls_started = self._counter(
            "netloader_pulls_started", "Pulls of a model from peers that have begun."
        )
        self._pulls_ended = self._counter(
            "netloader_pulls_finished",
            "Pulls that have ended. Every result but complete means that storage was read.",
            "result",
        )
        self._pull_seconds = self._histogram(
            "netloader_pull_duration_seconds", "How long pulls took, by result.", "result"
        )
        self._waits = self._histogram(
            "netloader_source_wait_duration_seconds",
            "How long workers waited for another one that read storage, by what came of it.",
            "result",
        )
        self._pulled = self._counter(
            "netloader_pulled_bytes", "Verified bytes of weights from peers.", "transport"
        )
        self._streams_ended = self._counter(
            "netloader_streams_ended",
            "Sources of pulls that were done, dropped, lost or given up, by how that ended.",
            "outcome",
        )
        self._retried = self._counter(
            "netloader_chunks_retried",
            "Chunks that were asked for and had to be asked for again, by how their source ended.",
            "reason",
        )
        self._loads = self._counter(
            "netloader_loads",
            "Models that were filled, from peers (a hit) or from storage (a fallback).",
            "origin",
            "role",
        )
        self._load_seconds = self._histogram(
            "netloader_load_duration_seconds", "How long filling a model took.", "origin"
        )
        self._sessions = Gauge(
            "netloader_sessions",
            "Replicas that are being served now.",
            ("role",),
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._sessions_ended = self._counter(
            "netloader_sessions_finished",
            "Replicas that were served, by how their session ended.",
            "outcome",
            "transport",
        )
        self._served = self._counter(
            "netloader_served_bytes", "Bytes of weights sent to replicas.", "transport"
        )
        self._held = self._counter(
            "netloader_rate_limit_wait_seconds",
            "Seconds for which RATE_LIMIT held sessions, added up over all sessions.",
        )
        self._refused = self._counter(
            "netloader_sessions_refused", "Replicas that were refused, by the code.", "code"
        )
        self._members = Gauge(
            "netloader_mesh_members",
            "Members that this worker knows, itself included.",
            ("status",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._messages = self._counter(
            "netloader_mesh_messages", "Messages of the mesh.", "direction"
        )
        self._bytes = self._counter(
            "netloader_mesh_bytes", "Bytes of the mesh's messages.", "direction"
        )
        self._probes = self._counter(
            "netloader_mesh_probes", "Members that this worker has asked whether they are alive."
        )
        self._suspicions = self._counter(
            "netloader_mesh_suspicions", "Members that became suspect in this worker's view."
        )
        self._dropped = self._counter(
            "netloader_mesh_dropped", "What the mesh did not take or send, by why.", "reason"
        )
        self._errors = self._counter(
            "netloader_mesh_errors", "Steps of the mesh that failed in this worker.", "where"
        )

    def pull_started(self) -> None:
        self._pulls_started.inc()

    def pull_ended(self, result: PullResult, seconds: float) -> None:
        self._pulls_ended.labels(result.value).inc()
        self._pull_seconds.labels(result.value).observe(seconds)

    def waited(self, result: str, seconds: float) -> None:
        self._waits.labels(result).observe(seconds)

    def delivered(self, transport: str, nbytes: int) -> None:
        self._pulled.labels(transport).inc(nbytes)

    def stream_ended(self, how: str, unfinished: int) -> None:
        self._streams_ended.labels(how).inc()
        if unfinished:
            self._retried.labels(how).inc(unfinished)

    def loaded(self, origin: str, role: str, seconds: float) -> None:
        self._loads.labels(origin, role).inc()
        self._load_seconds.labels(origin).observe(seconds)

    def sessions(self, role: str, count: int) -> None:
        self._sessions.labels(role).set(count)

    def session_ended(self, how: str, transport: str, nbytes: int, held_s: float) -> None:
        self._sessions_ended.labels(how, transport).inc()
        self._served.labels(transport).inc(nbytes)
        self._held.inc(held_s)

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def mesh(self, members: Mapping[str, int], counters: Mapping[str, int]) -> None:
        with self._sampling:
            grown = {name: count - self._before.get(name, 0) for name, count in counters.items()}
            self._before = dict(counters)
        for status, count in members.items():
            self._members.labels(status).set(count)
        for name, more in grown.items():
            if more > 0:
                self._count(name, more)

    def _count(self, name: str, more: int) -> None:
        """Add to the metric of one of the mesh's counters, if there is one."""
        if name.startswith(_DROPPED):
            self._dropped.labels(name.removeprefix(_DROPPED)).inc(more)
        elif name.startswith(_FAILED):
            self._errors.labels(name.removeprefix(_FAILED)).inc(more)
        else:
            match name:
                case "sent" | "received":
                    self._messages.labels(name).inc(more)
                case "sent_bytes" | "received_bytes":
                    self._bytes.labels(name.removesuffix("_bytes")).inc(more)
                case "probes":
                    self._probes.inc(more)
                case "suspicions":
                    self._suspicions.inc(more)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=SECONDS, registry=self.registry)
