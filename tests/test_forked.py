from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked import Nursery, answer, tell

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


def test_a_socket_is_its_standard_input(made: Nursery, tmp_path: Path) -> None:
    ours, its = socket.socketpair()
    with ours, (tmp_path / "log").open("wb") as log:
        with its:
            process = made.start("forked_child", stdin=its, output=log, env={"SAID": "here"})
        ours.sendall(b"hello\n")
        ours.shutdown(socket.SHUT_WR)
        assert process.wait() == 7
        process.close()
    said, answered, _ = (tmp_path / "log").read_text().splitlines()
    assert (said, answered) == ("[] here True [0, 1, 2]", "HELLO")


def test_what_runs_ends_with_the_nursery(made: Nursery) -> None:
    process = made.start("forked_child")
    assert process.stdout.readline()
    made.close()
    assert process.stdout.read() == ""
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_lines_are_answered_and_a_silent_process_is_ended(made: Nursery) -> None:
    with made.start("forked_child") as process:
        assert answer(process).startswith("[]")
        for line in ("one", "two"):
            tell(process, line)
            assert answer(process) == f"{line.upper()}\n"
        assert answer(process, 0.01) == ""
        assert process.wait() == -signal.SIGKILL


def test_folder_environment_and_output_are_as_asked(made: Nursery, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "found_there.py").write_text(
        "import os, sys\nprint(os.getcwd(), os.environ['SAID'], flush=True)\nsys.exit('failed')"
    )
    environment = {"SAID": "here", "PYTHONPATH": str(tmp_path / "more")}
    with (
        (tmp_path / "log").open("wb") as log,
        made.start("found_there", env=environment, cwd=tmp_path, output=log) as process,
    ):
        assert process.stdout.read() == ""
        assert process.wait() == 1
    assert (tmp_path / "log").read_text() == f"{tmp_path} here\nfailed\n"


def test_a_process_leads_a_group_of_its_own(made: Nursery) -> None:
    process = made.start("forked_child")
    assert os.getpgid(process.pid) == process.pid
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.close()


def test_what_runs_ends_when_the_nursery_is_killed(made: Nursery) -> None:
    process = made.start("forked_child")
    assert process.stdout.readline()
    parent = int(Path(f"/proc/{process.pid}/stat").read_text().split()[3])
    os.kill(parent, signal.SIGKILL)
    assert process.stdout.read() == ""
