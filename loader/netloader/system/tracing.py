"""Parts of a load in the trace that vLLM writes, if its tracing is on (`--otlp-traces-endpoint`).

vLLM then installs OpenTelemetry's provider in each of its processes. Without it, or without the
package, a span costs microseconds and goes nowhere. What vLLM itself does while it loads a model is
a span of the same thread, so ours become parts of that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

try:
    from opentelemetry.trace import get_tracer
except ImportError:
    get_tracer = None  # type: ignore[assignment]

_NAME: Final = "netloader"


def span(part: str, **attributes: str | int) -> AbstractContextManager[object]:
    """Covers one part of a load. An error that leaves it is recorded."""
    if get_tracer is None:
        return nullcontext()  # type: ignore[unreachable]
    tracer = get_tracer(_NAME)
    names = {f"{_NAME}.{name}": value for name, value in attributes.items()}
    return tracer.start_as_current_span(f"{_NAME}.{part}", attributes=names)
