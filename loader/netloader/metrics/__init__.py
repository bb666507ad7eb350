"""Metrics for Prometheus: what is counted (`catalogue`), where it can be read (`exporter`), and
who reads the mesh (`sampler`)."""

from __future__ import annotations

from netloader.metrics.exporter import start

__all__ = ["start"]
