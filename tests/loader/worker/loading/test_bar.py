"""Lines that show how far a load is."""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from tests.fastest import HANG_S
from tests.loader.support import until
from tests.loader.worker.loading.whole_load import (
    FakeEngine,
    advert,
    load_with,
    sources,
    toy,
    working,
)
from tests.loader.worker.test_progress import Clock

from netloader.transport import TransportError
from netloader.worker.loading.bar import LONGEST_S, SHARE, SHORTEST_S, Bar, line
from netloader.worker.process import Worker

WHOLE = re.compile(
    r"Pulling weights from peers: [ \d]{3}% Completed \| [\d.]+[kMG]?B/[\d.]+[kMG]?B "
    r"\[\d\d:\d\d<(\?|\d\d:\d\d), [\d.]+[kMG]?B/s, (no source|1 source|\d+ sources)\]"
)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            (0, 2_700_000_000, 0.0, 0, "no source"),
            "  0% Completed | 0.00B/2.70GB [00:00<?, 0.00B/s, no source]",
        ),
        (
            (1_215_000_000, 2_700_000_000, 3.2, 402_000_000, "3 sources"),
            " 45% Completed | 1.22GB/2.70GB [00:03<00:03, 402MB/s, 3 sources]",
        ),
        (
            (2_700_000_000, 2_700_000_000, 3700.0, 7, ""),
            "100% Completed | 2.70GB/2.70GB [1:01:40<00:00, 7.00B/s]",
        ),
        ((5, 3, 1.0, 1, ""), "100% Completed | 5.00B/3.00B [00:01<00:00, 1.00B/s]"),
        ((0, 0, 1.0, 0, ""), "100% Completed | 0.00B/0.00B [00:01<?, 0.00B/s]"),
    ],
)
def test_a_line_says_how_far_how_fast_and_by_whom(
    state: tuple[int, int, float, int, str], text: str
) -> None:
    assert line("Pulling", *state) == f"Pulling: {text}"


def honest(tag: int, data: torch.Tensor) -> torch.Tensor:
    return data


class Written:
    """What a bar has written, by a clock of the test's own."""

    def __init__(self, total: int, *, shown: bool = True) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.came = 0.0
        self.bar = Bar("Pulling", total, shown=shown, write=self.lines.append, clock=self.clock)

    def run(self, seconds: float, rate: float, step_s: float = 0.25) -> None:
        for _ in range(round(seconds / step_s)):
            self.clock.now += step_s
            self.came += rate * step_s
            self.bar.at(int(self.came), "2 sources")


def test_each_state_is_a_line_of_its_own() -> None:
    one = Written(1000)
    one.run(100, 10)
    one.bar.end("2 sources")
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in one.lines)
    assert not any("\r" in text or "\x1b" in text for text in one.lines)


@pytest.mark.parametrize("seconds", [3, 60, 600, 6000])
def test_however_long_it_takes_lines_are_few(seconds: int) -> None:
    one = Written(10**12)
    one.run(seconds, 10**12 / seconds)
    assert min(seconds / SHORTEST_S, 1 / SHARE) - 1 <= len(one.lines)
    assert len(one.lines) <= 1 / SHARE + seconds / LONGEST_S + 1


def test_what_is_fast_has_one_line() -> None:
    one = Written(1000)
    one.run(0.75, 1333.4)
    assert one.lines == []
    one.bar.end("2 sources")
    (last,) = one.lines
    assert last == "Pulling: 100% Completed | 1.00kB/1.00kB [00:00<00:00, 1.33kB/s, 2 sources]\n"


def test_a_stall_is_shown() -> None:
    one = Written(1000)
    one.run(20, 10)
    before = len(one.lines)
    one.run(2 * LONGEST_S, 0)
    stalled = one.lines[before:]
    assert len(stalled) == 2
    assert all("<?, 0.00B/s, 2 sources]" in text for text in stalled)


def test_what_was_thrown_away_is_shown() -> None:
    one = Written(1000)
    one.run(20, 10)
    one.came = 0
    one.run(2, 10)
    assert "  1% Completed" in one.lines[-1] or "  2% Completed" in one.lines[-1]


def test_of_nothing_there_is_no_last_line() -> None:
    one = Written(1000)
    one.bar.at(0, "no source")
    one.bar.end("no source")
    assert one.lines == []


def test_where_it_is_not_wanted_nothing_is_written() -> None:
    one = Written(1000, shown=False)
    one.run(100, 10)
    one.bar.end()
    assert one.lines == []


def test_a_reader_that_is_gone_costs_the_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        clock = Clock()
        bar = Bar("Pulling", 1000, shown=True, clock=clock)
        for step in range(1, 5):
            clock.now += LONGEST_S
            bar.at(step * 200)
        assert not bar.shown
        bar.end()
        # What could not be written is still there.
        monkeypatch.setattr(sys, "stderr", sys.__stderr__)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)


def test_a_process_without_stderr_loads_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    bar = Bar("Pulling", 1000, shown=True)
    bar.at(1000)
    bar.end()
    assert bar.shown


@pytest.mark.parametrize("shows", [True, False])
def test_a_load_from_peers_shows_it(shows: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with sources(honest, honest) as endpoints:
        listed = [{"device_id": 0, "sources": endpoints}]
        with working(SOURCE=listed) as worker:
            loaded = load_with(worker, FakeEngine(), toy, shows_progress=shows)
    assert (loaded.origin, loaded.right) == ("peers", True)
    lines = [text for text in capsys.readouterr().err.splitlines() if "Pulling" in text]
    assert bool(lines) == shows
    assert all(WHOLE.fullmatch(text) for text in lines)
    if shows:
        assert "100% Completed" in lines[-1]
        assert lines[-1].endswith((", 1 source]", ", 2 sources]")[len(loaded.delivered) - 1])


def test_a_pull_that_is_given_up_shows_where_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    workers: list[Worker] = []
    sends = itertools.count()

    def cut_once_something_came(tag: int, data: torch.Tensor) -> torch.Tensor:
        if next(sends) < 2:
            return data
        until(lambda: advert(workers[0]).held)
        raise TransportError("cut")

    with sources(cut_once_something_came) as endpoints:
        listed = [{"device_id": 0, "sources": endpoints}]
        with working(SOURCE=listed, SOURCE_TIMEOUT=0) as worker:
            workers.append(worker)
            loaded = load_with(worker, FakeEngine(), toy, shows_progress=True)
            assert advert(worker).held == 0
    assert (loaded.origin, loaded.right) == ("storage", True)
    lines = [text for text in capsys.readouterr().err.splitlines() if "Pulling" in text]
    assert lines and all(WHOLE.fullmatch(text) for text in lines)
    assert "100%" not in lines[-1]


def test_lines_of_several_workers_and_of_the_log_stay_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Four workers of one process, whose log goes to the same stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("LOG %(message)s END"))
    log = logging.getLogger("netloader")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        with sources(honest) as endpoints, ExitStack() as stack, ThreadPoolExecutor(4) as pool:
            listed = [{"device_id": 0, "sources": endpoints}]
            workers = [stack.enter_context(working(SOURCE=listed)) for _ in range(4)]
            loads = [
                pool.submit(load_with, one, FakeEngine(), toy, shows_progress=True)
                for one in workers
            ]
            assert all(load.result(HANG_S).origin == "peers" for load in loads)
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
    lines = capsys.readouterr().err.splitlines()
    bars = [text for text in lines if "Pulling" in text]
    logged = [text for text in lines if "LOG" in text]
    assert len(bars) >= 4
    assert all(WHOLE.fullmatch(text) for text in bars)
    assert all(text.startswith("LOG ") and text.endswith(" END") for text in logged)
    assert sum("LOG pulled" in text for text in logged) == 4
