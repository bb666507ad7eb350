"""The finder of unreliable tests finds them, and leaves nothing running."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.flaky import LOGS, Plan, Run, busy, pinned, run_once, table
from tests.loader.support import until

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # A thread of an earlier test may end meanwhile.
            found.update(map(int, (task / "children").read_text().split()))
    return found


def test_the_table_counts_runs_and_names_what_failed_with_its_seeds() -> None:
    runs = [
        Run("order", 1, ()),
        Run("order", 2, ("tests/a.py::test_x",)),
        Run("order", 3, ("tests/a.py::test_x", "tests/b.py::test_y[a b]")),
        Run("pinned", 4, ()),
    ]
    assert table(runs).splitlines() == [
        "way       runs  passed",
        "order        3       1",
        "pinned       1       1",
        "order: tests/a.py::test_x (seed 2, 3)",
        "order: tests/b.py::test_y[a b] (seed 3)",
    ]


@linux
def test_as_many_processes_spin_as_there_are_cores_and_end_even_on_an_error() -> None:
    before = children()
    with pytest.raises(ZeroDivisionError), busy():
        assert len(children() - before) == len(os.sched_getaffinity(0))
        raise ZeroDivisionError
    assert children() <= before


@linux
def test_pinned_means_one_core_and_only_for_as_long() -> None:
    before = os.sched_getaffinity(0)
    with pinned():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_files_are_shared_by_whole_files_in_random_order() -> None:
    command = Plan(("tests/fuzz",), processes=3).command(5)
    assert command[-1] == "tests/fuzz" and "--randomly-seed=5" in command
    assert command[command.index("-n") + 1] == "3" and "--no-loadscope-reorder" in command


@pytest.mark.slow  # an interpreter of its own for each
class TestRun:
    def run(self, folder: Path, test: str, **changes: Any) -> Run:
        (folder / "test_one.py").write_text(test)
        return run_once(Plan(root=folder, processes=0, **changes), "order", 7)

    def test_that_passes_leaves_no_log(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "def test_x():\n    pass") == Run("order", 7, ())
        assert not (tmp_path / LOGS).exists()

    def test_that_fails_names_the_test_and_keeps_what_it_printed(self, tmp_path: Path) -> None:
        logs = "import logging\n\ndef test_x():\n    logging.error('no test')\n    assert 0, 'why'"
        assert self.run(tmp_path, logs) == Run("order", 7, ("test_one.py::test_x",))
        assert "assert 0" in (tmp_path / LOGS / "order-7.log").read_text()

    def test_that_cannot_be_collected_has_failed(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "import nothing_of_this_name").failed == ("test_one.py",)

    def test_in_which_the_interpreter_dies_has_failed(self, tmp_path: Path) -> None:
        dies = "import os\n\ndef test_x():\n    os._exit(9)"
        assert self.run(tmp_path, dies).failed == ("pytest ended with 9",)

    def test_that_hangs_is_ended_with_all_that_it_started(self, tmp_path: Path) -> None:
        hangs = (
            "import pathlib, subprocess, sys, threading\n\n"
            "def test_x():\n"
            "    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)\n"
            "    pathlib.Path('child').write_text(str(child.pid))\n"
            "    threading.Event().wait()"
        )
        # A busy machine takes its time to get to the test.
        for timeout_s in (3.0, 9.0, 27.0, 81.0, 243.0):
            run = self.run(tmp_path, hangs, timeout_s=timeout_s)
            assert run.failed == (f"pytest had not ended after {timeout_s:g} s",)
            if (tmp_path / "child").exists():
                break
        child = int((tmp_path / "child").read_text())
        until(lambda: is_dead(child))

    def test_draws_the_same_order_for_the_same_seed(self, tmp_path: Path) -> None:
        many = (
            "import pathlib, pytest\n\n"
            "@pytest.mark.parametrize('number', range(20))\n"
            "def test_x(number):\n"
            "    with pathlib.Path('order').open('a') as file:\n"
            "        print(number, file=file)"
        )
        for _ in range(2):
            assert not self.run(tmp_path, many).failed
        order = (tmp_path / "order").read_text().split()
        assert order[:20] == order[20:] != sorted(order[:20], key=int)


def is_dead(pid: int) -> bool:
    """Whether a process has ended; its entry may be left, for a parent that does not ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
