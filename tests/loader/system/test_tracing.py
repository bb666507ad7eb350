"""Without OpenTelemetry, and without a provider of it, a span is nothing."""

from __future__ import annotations

import subprocess
import sys

from netloader.system import tracing


def test_a_span_covers_what_is_done_in_it_and_passes_errors_on() -> None:
    done = []
    with tracing.span("pull", bytes=1):
        done.append(1)
    try:
        with tracing.span("pull"):
            raise KeyError("mine")
    except KeyError as error:
        done.append(str(error))
    assert done == [1, "'mine'"]


def test_without_the_package_there_are_no_spans() -> None:
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from netloader.system import tracing\n"
        "with tracing.span('pull', bytes=1):\n"
        "    print('done')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "done\n", ended.stderr
