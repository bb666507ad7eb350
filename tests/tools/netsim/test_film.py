"""Runs are written as recordings without a change to the run, and recordings are played again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.tools.mesh_inspect.support import holding, member

from mesh_inspect.recording.lines import RecordingHead, head_line
from mesh_inspect.recording.reader import Recording, Tape
from mesh_inspect.recording.track import Track
from mesh_inspect.view.entries import entries_of
from mesh_inspect.view.rows import rows_of
from netmesh import Generation, Member, Status
from netsim import RunOptions, run
from netsim.cli import main
from netsim.dataplane.fanout import play
from netsim.dataplane.options import Churn, FanoutOptions
from netsim.film import filmed
from netsim.rerun import Plot, rerun

CHURN = RunOptions("churn", 12, seed=3, duration_s=12.0)


def test_a_film_changes_nothing_and_shows_who_came_and_went(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with filmed(path) as film:
        report = run(CHURN, film=film)
    assert report.trace == run(CHURN).trace
    plot = Plot()
    Recording(path, plot.add)
    deeds = [one.deed for one in plot.occurrences]
    assert len(plot.population) == 12
    assert {"crash", "leave", "start"} == set(deeds) and len(deeds) == 12


def test_a_film_of_members_that_stand_still(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with filmed(path) as film:
        run(RunOptions("stall", 12, seed=1, duration_s=20.0, faults=2), film=film)
    plot = Plot()
    Recording(path, plot.add)
    assert sorted(one.deed for one in plot.occurrences) == ["stall", "stall", "wake", "wake"]


FANOUT = FanoutOptions(4, 1e8, 10**9, chunk_bytes=10**7, churn=Churn(2.0, 1))


def test_a_fanout_is_filmed_as_the_map_would_show_it(tmp_path: Path) -> None:
    path = tmp_path / "r"
    assert play(FANOUT, path) == play(FANOUT)
    recording = Recording(path)
    tape = Tape(recording)
    feeds, restarted = 0, 0
    generations: dict[str, int] = {}
    for step in range(21):
        moment = tape.wind(recording.begin + step / 20 * (recording.to - recording.begin))
        entries = entries_of(rows_of(moment.members))
        assert len(entries) == 5
        for one in entries:
            restarted += generations.get(str(one["id"]), one["generation"]) != one["generation"]
            generations[str(one["id"])] = int(str(one["generation"]))
            listed = one["feeds"]
            assert isinstance(listed, list)
            feeds += len(listed)
            assert all(feed["id"] is not None and feed["id"] != one["id"] for feed in listed)
            rates = sum(feed["rate"] for feed in listed)
            assert rates <= 1.5 * FANOUT.rate
    assert feeds > 20 and restarted == 1
    assert {one["state"] for one in entries} == {"ready"}
    tape.close()


def test_the_command_films_one_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["fanout", "--replicas", "2", "--bytes", "1MB", "--record"]
    assert main([*small, str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.startswith("swarm")
    assert main([*small, str(tmp_path / "b"), "--policy", "naive"]) == 0
    assert main([*small, str(tmp_path / "c"), "--policy", "naive", "--policy", "swarm"]) == 2
    assert main([*small, str(tmp_path / "a")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["crash", "--members", "8", "--record", str(tmp_path / "a")]) == 2


def recorded(path: Path, *looks: Sequence[Member], every_s: float = 5.0) -> Path:
    track = Track(1.79e9)
    lines = [head_line(RecordingHead(mesh="m", at=1.79e9, program="t"))]
    for number, look in enumerate(looks):
        lines.append(track.seen(1.79e9 + number * every_s, look) or b"")
    path.write_bytes(b"".join(lines))
    return path


def there(number: int, status: Status = Status.ALIVE, generation: int = 1) -> Member:
    one = member(holding("org/a"), id=f"10.0.0.{number}:1", status=status)
    return Member(one.id, Generation(generation << 40), 0, status, 1, one.advert, one.age_s)


FIVE = [there(number) for number in range(5)]


def test_a_recording_is_played_and_its_news_timed(tmp_path: Path) -> None:
    looks = [
        FIVE,
        [*FIVE[:4], there(4, Status.DEAD)],
        [*FIVE[:4], there(4, generation=2), there(5)],
        [there(0, Status.STALLED), *FIVE[1:4], there(4, generation=2), there(5)],
        [*FIVE[:3], there(3, Status.LEFT), there(4, generation=2), there(5)],
        # One is gone without a word, and another restarted between two looks.
        [FIVE[0], there(2, generation=2), there(4, generation=2), there(5)],
    ]
    report = rerun(recorded(tmp_path / "r", *looks))
    assert report.problems == () and report.members == 5
    assert report.details["occurrences"] == 9
    assert report.details["occurrences_not_played"] == 0
    for deed in ("crash", "leave", "start"):
        assert 0 < report.details[f"{deed}_known_p99_s"] < 10
    assert report.trace == rerun(recorded(tmp_path / "r", *looks)).trace


def test_the_film_of_a_run_is_played_with_the_same_events(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with filmed(path) as film:
        run(CHURN, film=film)
    report = rerun(path)
    assert report.problems == () and report.details["occurrences"] == 12


def test_long_quiet_spans_are_cut(tmp_path: Path) -> None:
    looks = [FIVE, FIVE[:4]]
    slow = rerun(recorded(tmp_path / "r", *looks, every_s=36_000.0))
    assert slow.virtual_s < 600


@pytest.mark.parametrize(
    ("looks", "said"),
    [([FIVE[:3], FIVE[:2]], "at least 4"), ([FIVE, FIVE], "nothing to play"), ([], "no look")],
)
def test_what_cannot_be_played_is_said(
    looks: list[list[Member]], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(recorded(tmp_path / "r", *looks))]) == 2
    assert said in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none")]) == 2
