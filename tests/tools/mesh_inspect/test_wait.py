"""`wait` ends as soon as enough members are there, and says what was missing when none came."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh_inspect import cli
from netmesh import Status

from .support import ALONE, PlayedMesh, holding, member

READY = member(holding("org/a"), id="10.0.0.1:1")
LOADING = member(holding("org/a", state="loading"), id="10.0.0.2:1")
SECOND = member(
    holding("org/a", replace(ALONE, tp_rank=1)), holding("org/a", role="draft"), id="10.0.0.2:1"
)
STALLED = member(holding("org/a"), id="10.0.0.3:1", status=Status.STALLED)


def test_it_ends_with_the_look_that_shows_enough(capsys: pytest.CaptureFixture[str]) -> None:
    world = PlayedMesh(None, (READY, LOADING), (READY, LOADING), (READY, SECOND))
    assert cli.main(["wait", "--for", "ready", "--count", "2", "--timeout", "60"], world.means) == 0
    assert capsys.readouterr().out == "2 ready\n"
    assert len(world.asked_s) == 4 and world.now == 6.0


def test_a_member_counts_once_however_much_it_holds() -> None:
    assert cli.main(["wait", "--count", "2", "--timeout", "3"], PlayedMesh((SECOND,)).means) == 2


def test_only_ready_members_of_the_model_count(capsys: pytest.CaptureFixture[str]) -> None:
    world = PlayedMesh((READY, LOADING, STALLED))
    assert cli.main(["wait", "--model", "org/*", "--timeout", "5"], world.means) == 0
    assert cli.main(["wait", "--model", "other", "--timeout", "5"], world.means) == 2
    assert cli.main(["wait", "--count", "2", "--timeout", "5"], world.means) == 2
    assert cli.main(["wait", "--for", "alive", "--count", "2", "--timeout", "5"], world.means) == 0
    err = capsys.readouterr().err
    assert "after 5 s 0 members of mesh 'default' with 'other' are ready, not 1" in err
    assert "after 5 s 1 members of mesh 'default' are ready, not 2" in err


def test_no_look_takes_longer_than_what_is_left() -> None:
    world = PlayedMesh(None)
    assert cli.main(["wait", "--timeout", "4.5"], world.means) == 3
    assert world.asked_s == [3.0, 0.5]
    assert world.now == 4.5


def test_nobody_is_told_with_where_they_were_looked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["wait", "--timeout", "2"], PlayedMesh(None).means) == 3
    err = capsys.readouterr().err
    assert "within 2 s" in err and "10.0.0.9:1" in err
    # Whoever answered last counts, even if somebody did before.
    assert cli.main(["wait", "--timeout", "9"], PlayedMesh((), None).means) == 3


@pytest.mark.parametrize(
    "arguments", [["--count", "0"], ["--count", "x"], ["--for", "rain"], ["-o", "json"]]
)
def test_a_wrong_command_line_is_64(arguments: list[str]) -> None:
    assert cli.main(["wait", *arguments]) == 64
