"""The terminal is as it was, however the screen ends; where there is none, that is said."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.forked import answer, start_mesh
from tests.tools.mesh_inspect.top.broken_look import KEY

from mesh_inspect import cli
from mesh_inspect.top.terminal import why_not

ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"
"""xterm's sequences for a screen of one's own, and back."""

CURSOR, NO_MOUSE = b"\x1b[?25h", b"\x1b[?1000l"

MEASURED_S = 5.0

pytestmark = pytest.mark.slow  # a process of its own for each


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._end, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.written = b""
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        )

    def read_until(self, text: bytes) -> None:
        """Read what is written until it contains a text."""
        while text not in self.written:
            assert select.select([self._end], [], [], HANG_S)[0], self.written[-500:]
            self.written += os.read(self._end, 65536)

    def read(self, timeout_s: float) -> None:
        """Read what is written, if anything is."""
        if select.select([self._end], [], [], timeout_s)[0]:
            self.written += os.read(self._end, 65536)

    def type(self, keys: bytes) -> None:
        os.write(self._end, keys)

    def end(self) -> int:
        """Wait for the program, and read the rest of what it wrote."""
        deadline = time.monotonic() + HANG_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.written[-500:]!r}"
            self.read(0.05)
        while select.select([self._end], [], [], 0)[0]:
            self.written += os.read(self._end, 65536)
        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was."""
        last = self.written[self.written.rindex(LEFT) :]
        modes = termios.tcgetattr(self._theirs) == self.before
        return modes and CURSOR in last and ENTERED not in last and NO_MOUSE in self.written

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._end)
        os.close(self._theirs)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NETLOADER_")}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "NETLOADER_MESH_DIRECTORY": str(tmp_path / "netmesh"), "PYTHONPATH": path}


@contextmanager
def terminal(environ: dict[str, str], *command: str) -> Iterator[Terminal]:
    one = Terminal([sys.executable, "-m", *command], environ)
    try:
        yield one
    finally:
        one.close()


COLOURS = re.compile(rb"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")
"""Of a text, or behind it: 39 and 49 are the terminal's own."""


def test_there_are_colours_unless_somebody_wants_none(environ: dict[str, str]) -> None:
    for more, coloured in ({}, True), ({"NO_COLOR": "1"}, False):
        with terminal({**environ, **more}, "mesh_inspect", "top") as one:
            one.read_until(b"NOBODY ANSWERS")
            one.type(b"q")
            assert one.end() == 0
            assert bool(COLOURS.search(one.written)) == coloured


@pytest.mark.parametrize(
    ("how", "status"), [(b"\x03", 130), (b"q", 0), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_it_leaves_the_terminal_as_it_was(
    environ: dict[str, str], how: bytes | signal.Signals, status: int
) -> None:
    with terminal(environ, "mesh_inspect", "top") as one:
        # Nobody answers here, and that ends nothing.
        one.read_until(b"NOBODY ANSWERS")
        if isinstance(how, bytes):
            one.type(how)
        else:
            one.process.send_signal(how)
        assert one.end() == status
        assert one.restored


def test_a_fault_of_its_own_leaves_the_terminal_as_it_was(environ: dict[str, str]) -> None:
    keyed = {**environ, "NETLOADER_MESH_KEY": KEY}
    with terminal(keyed, "tests.tools.mesh_inspect.top.broken_look") as one:
        assert one.end() == 1
        assert one.restored
        after = one.written[one.written.rindex(LEFT) :]
        assert b"a fault of our own" in after
        assert KEY.encode() not in one.written


def test_without_a_terminal_it_says_what_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top"]) == 64
    out, err = capsys.readouterr()
    assert out == "" and "is not a terminal" in err and "mesh-inspect list" in err and "-w" in err


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_without_a_screen_is_none() -> None:
    yes, no = Tty(), io.StringIO()
    assert why_not({"TERM": "xterm"}, yes, yes) == ""
    assert why_not({"TERM": "xterm"}, yes, no) == "standard output is not a terminal"
    assert why_not({"TERM": "xterm"}, no, yes) == "standard input is not a terminal"
    assert "'dumb'" in why_not({"TERM": "dumb"}, yes, yes)
    assert "'unknown'" in why_not({}, yes, yes)


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_two_thousand_members_on_the_move_cost_less_than_half_a_core(
    environ: dict[str, str],
) -> None:
    with start_mesh("tests.tools.mesh_inspect.moving", "moving") as mesh:
        seed = answer(mesh).strip()
        with terminal(environ, "mesh_inspect", "--mesh", "moving", "--seed", seed, "top") as one:
            one.read_until(b"2000 members")
            began_s, used_s = time.monotonic(), cpu_s(one.process.pid)
            while (took_s := time.monotonic() - began_s) < MEASURED_S:
                one.read(0.1)
            used_s = cpu_s(one.process.pid) - used_s
            print(f"{used_s / took_s:.2f} of a core")
            assert used_s < took_s / 2
            one.type(b"q")
            assert one.end() == 0
