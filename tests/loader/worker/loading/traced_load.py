"""A load whose spans are printed; its argument says whether there is a peer (`peers`, `storage`).

OpenTelemetry takes one provider for the life of a process, so this is a process of its own.
"""

from __future__ import annotations

import sys

import orjson
import torch
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.loader.worker.loading.whole_load import FILE, FakeEngine, load, one_file, sources


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


def main() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    faults = (honest,) if sys.argv[1] == "peers" else ()
    with sources(*faults) as endpoints, trace.get_tracer("vllm").start_as_current_span("Loading"):
        own = FakeEngine(evidence={}, makers=one_file(FILE).makers(None, full=False))
        assert load(endpoints, FakeEngine() if faults else own).right
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    told = [
        [span.name, names.get(span.parent.span_id, "") if span.parent is not None else ""]
        for span in spans
    ]
    sys.stdout.write(orjson.dumps(told).decode() + "\n")


if __name__ == "__main__":
    main()
