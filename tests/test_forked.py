from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fastest import HANG_S
from tests.forked import Nursery
from tests.loader.support import until

CHILD = """
import os, sys
print(sys.argv[1:], os.environ.get("SAID"), "json" in sys.modules, sorted(
    int(one) for one in os.listdir("/proc/self/fd"))[:-1], flush=True)
for line in sys.stdin:
    print(line.strip().upper(), flush=True)
print("to stderr", file=sys.stderr)
sys.exit(7)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nursery]:
    """Has imported json, and finds the module `forked_child`."""
    (tmp_path / "forked_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    nursery = Nursery(["json"])
    yield nursery
    nursery.close()


def test_a_module_runs_with_its_arguments_environment_and_streams(
    made: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAID", "now")
    with (
        (tmp_path / "log").open("wb") as log,
        made.start("forked_child", "a", "b c", stderr=log) as process,
    ):
        assert process.stdout.readline() == "['a', 'b c'] now True [0, 1, 2]\n"
        assert process.poll() is None
        process.stdin.write("hello\n")
        process.stdin.close()
        assert process.stdout.read() == "HELLO\n"
        assert process.wait() == process.poll() == 7
    assert (tmp_path / "log").read_text() == "to stderr\n"


def test_one_of_several_is_killed_and_the_others_run_on(made: Nursery) -> None:
    running = [made.start("forked_child") for _ in range(3)]
    for process in running:
        assert process.stdout.readline()
    running[1].kill()
    assert running[1].wait() == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        running[0].wait(0)
    for process in (running[0], running[2]):
        process.stdin.write("still here\n")
        process.stdin.close()
        assert process.stdout.read() == "STILL HERE\n"
        assert process.wait() == 7
        process.stdout.close()
    running[1].close()


def test_a_module_that_raises_ends_with_1(made: Nursery, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, made.start("no.such.module", stderr=log) as process:
        assert process.wait() == 1
    assert "no.such.module" in (tmp_path / "log").read_text()


def test_one_apart_has_its_own_environment_session_and_streams(
    made: Nursery, tmp_path: Path
) -> None:
    ours, its = socket.socketpair()
    with ours, (tmp_path / "log").open("w+b") as log:
        with its:
            process = made.start_apart(
                "forked_child", "a", its.fileno(), log.fileno(), {"SAID": "here"}
            )
        ours.sendall(b"hello\n")
        until(lambda: b"HELLO" in (tmp_path / "log").read_bytes(), HANG_S)
        assert os.getsid(process.pid) == process.pid
        ours.shutdown(socket.SHUT_WR)
        assert process.wait() == 7
    said, answer, last = (tmp_path / "log").read_text().splitlines()
    assert said == "['a'] here True [0, 1, 2]"
    assert (answer, last) == ("HELLO", "to stderr")


def test_what_runs_ends_with_the_nursery(made: Nursery) -> None:
    process = made.start("forked_child")
    assert process.stdout.readline()
    made.close()
    assert process.stdout.read() == ""
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
