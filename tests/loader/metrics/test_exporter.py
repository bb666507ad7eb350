"""Where metrics can be read, and what a bad place for them costs."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.free_ports import free_port
from tests.loader.support import until

from netloader import metrics
from netloader.metrics.exporter import MAX_REQUESTS, SHARED_DIRECTORY, Export
from netloader.telemetry import SILENT
from netmesh import Member


def nobody() -> tuple[Sequence[Member], Mapping[str, int]]:
    return (), {"sent": 3}


@contextmanager
def exporting(
    host: str = "127.0.0.1", request_s: float = HANG_S, whole_s: float = HANG_S
) -> Iterator[Export]:
    export = metrics.start((host, free_port()), nobody, {}, request_s, whole_s)
    assert export.port is not None
    try:
        yield export
    finally:
        export.close()


def read(port: int | None, host: str = "127.0.0.1") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=HANG_S) as answer:
        return str(answer.read().decode())


def test_without_a_port_and_a_shared_folder_nothing_is_counted() -> None:
    export = metrics.start(None, nobody, {})
    assert export.telemetry is SILENT
    assert export.port is None
    export.close()


def test_what_was_told_can_be_read_over_http() -> None:
    with exporting() as export:
        export.telemetry.refused("busy")
        assert 'netloader_sessions_refused_total{code="busy"} 1.0' in read(export.port)
        until(lambda: 'netloader_mesh_messages_total{direction="sent"} 3.0' in read(export.port))


def test_ipv6_works_as_well() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with exporting("::1") as export:
        assert "netloader_" in read(export.port, "[::1]")


def test_after_close_nothing_listens_and_the_port_is_free() -> None:
    with exporting() as export:
        port = export.port
    assert port is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), HANG_S)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_taken_port_costs_a_warning_and_the_metrics(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        export = metrics.start(("127.0.0.1", other.getsockname()[1]), nobody, {})
    assert export.telemetry is SILENT
    assert "METRICS_PORT" in caplog.text


def test_an_address_of_another_host_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    export = metrics.start(("203.0.113.7", free_port()), nobody, {})
    assert export.telemetry is SILENT
    assert "METRICS_HOST" in caplog.text


def test_silent_clients_do_not_stop_a_scrape_and_are_hung_up_on() -> None:
    with exporting(request_s=0.5) as export, ExitStack() as stack:
        assert export.port is not None
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", export.port), HANG_S))
            for _ in range(MAX_REQUESTS - 1)
        ]
        assert "netloader_" in read(export.port)
        for one in silent:
            one.settimeout(HANG_S)
            while one.recv(1 << 16):
                pass


def test_clients_that_send_a_byte_now_and_then_are_hung_up_on() -> None:
    with exporting(whole_s=0.5) as export, ExitStack() as stack:
        assert export.port is not None
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", export.port), HANG_S))
            for _ in range(MAX_REQUESTS)
        ]

        def dripping() -> bool:
            for one in slow:
                with suppress(OSError):  # hung up on
                    one.send(b"x")
            return not _answers(export.port)

        until(lambda: not dripping())


_FULL = """
import os, resource, sys, threading, time
from netloader import metrics
export = metrics.start(("127.0.0.1", int(sys.argv[1])), lambda: ((), {}), {})
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, used + 8))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    print("full", flush=True)
sys.stdin.readline()
before = time.process_time()
threading.Event().wait(1.0)
print(time.process_time() - before, flush=True)
for one in taken:
    os.close(one)
sys.stdin.readline()
export.close()
"""
"""Seconds of a core that are used in one second while a client waits and no descriptor is left."""


def test_without_descriptors_it_does_not_spin_and_answers_once_there_are_some() -> None:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-c", _FULL, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == "full\n"
        with socket.create_connection(("127.0.0.1", port), HANG_S):
            child.stdin.write("\n")
            child.stdin.flush()
            assert float(child.stdout.readline()) < 0.2
        until(lambda: _answers(port))
        child.stdin.close()
        assert child.wait(HANG_S) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_one_more_than_its_places_is_hung_up_on_and_the_next_is_answered() -> None:
    with exporting() as export, ExitStack() as stack:
        assert export.port is not None
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", export.port), HANG_S))
            for _ in range(MAX_REQUESTS + 1)
        ]
        crowd[-1].settimeout(HANG_S)
        assert crowd[-1].recv(1) == b""
        crowd[0].close()
        until(lambda: _answers(export.port))


def _answers(port: int | None) -> bool:
    try:
        return "netloader_" in read(port)
    except OSError:
        return False


def test_a_forked_child_does_not_keep_the_port() -> None:
    with exporting() as export:
        port = export.port
        ended, end = os.pipe()
        begun, begin = os.pipe()
        child = os.fork()
        if not child:
            os.close(end)
            os.write(begin, b"!")
            os.read(ended, 1)
            os._exit(0)
        os.read(begun, 1)
    assert port is not None
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), HANG_S)
    finally:
        os.close(end)
        os.waitpid(child, 0)
        for descriptor in (ended, begun, begin):
            os.close(descriptor)


_RANK = """
import json, os, sys
from netloader import metrics
export = metrics.start(None, lambda: ((), {"sent": 1}))
export.telemetry.refused("busy")
export.telemetry.sessions("target", int(sys.argv[1]))
print("counted", flush=True)
sys.stdin.readline()
export.close()
"""

_FRONT = """
import sys
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
sys.stdout.write(generate_latest(registry).decode())
"""


def front_end(environ: dict[str, str]) -> str:
    """What vLLM's own `/metrics` adds up."""
    return subprocess.run(
        [sys.executable, "-c", _FRONT], env=environ, check=True, capture_output=True, text=True
    ).stdout


def test_two_ranks_with_a_shared_folder_are_added_up_by_the_front_end(tmp_path: Path) -> None:
    environ = {**os.environ, SHARED_DIRECTORY: str(tmp_path)}
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _RANK, str(sessions)],
                    env=environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for sessions in (2, 3)
        ]
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "counted\n"
        seen = front_end(environ)
        assert 'netloader_sessions_refused_total{code="busy"} 2.0' in seen
        assert 'netloader_sessions{role="target"} 5.0' in seen
        for rank in ranks:
            rank.communicate("\n", timeout=HANG_S)
    seen = front_end(environ)
    assert 'netloader_sessions_refused_total{code="busy"} 2.0' in seen
    assert "netloader_sessions{" not in seen


def test_a_shared_folder_that_is_missing_costs_a_warning(tmp_path: Path) -> None:
    environ = {**os.environ, SHARED_DIRECTORY: str(tmp_path / "missing")}
    program = (
        "import logging; logging.basicConfig()\n"
        "from netloader import metrics\n"
        "from netloader.telemetry import SILENT\n"
        "assert metrics.start(None, lambda: ((), {})).telemetry is SILENT\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert "no metrics" in ended.stderr
    assert SHARED_DIRECTORY in ended.stderr


def test_nothing_of_prometheus_is_imported_unless_metrics_are_wanted() -> None:
    program = (
        "import json, sys\n"
        "from netloader import metrics\n"
        "metrics.start(None, lambda: ((), {}), {}).close()\n"
        "print(json.dumps('prometheus_client' in sys.modules))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed) is False


def test_requests_are_logged_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with exporting() as export:
        caplog.clear()
        read(export.port)
    assert not caplog.records
