"""What is made of the documentation is what `python -m tests.pages` makes."""

from __future__ import annotations

import pytest

from netmesh.core.records import Status
from netmesh.core.states import TRANSITIONS, Cause
from tests.pages import DOCS, MADE, bars, house, settings, stories, within
from tests.pages.drawing import lines


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_as_it_would_be_made(name: str) -> None:
    assert (DOCS / name).read_text() == MADE[name](), "run python -m tests.pages"


def test_every_setting_has_a_group() -> None:
    assert set() == settings.UNSORTED


def test_a_setting_is_told_by_the_docstring_of_its_field() -> None:
    meaning, without = settings.said("LISTEN_PORT")
    assert meaning.startswith("Base port of the listener") and without == "a free port"
    assert "`LISTEN_PORT`" in settings.page()


def test_both_ends_say_what_a_setting_of_both_means() -> None:
    meaning, _ = settings.said("TRANSFER_TIMEOUT")
    assert "a peer is given up" in meaning and "must make room" in meaning


def test_there_is_no_setting_without_a_docstring() -> None:
    assert all(
        settings.said(key)[0].endswith(".") for keys in settings.GROUPS.values() for key in keys
    )


def test_the_table_of_the_protocol_shows_every_transition_and_nothing_else() -> None:
    head, _, *rows = [row.strip("|").split("|") for row in stories.transitions().splitlines()]
    befores = [None if name.strip() == "unknown" else Status[name.strip()] for name in head[1:]]
    shown = {
        (before, Cause(cells[0].strip(" `"))): Status[cell.strip()]
        for cells in rows
        for before, cell in zip(befores, cells[1:], strict=True)
        if cell.strip()
    }
    assert shown == dict(TRANSITIONS)


def test_the_picture_of_the_house_has_its_rooms_from_the_roof_down() -> None:
    drawn = house.picture()
    places = [drawn.index(f">{name}<") for name in ("netsim", "engine", "source", "io", "core")]
    assert places == sorted(places)
    assert "The serving side, from a hello to chunks sent" in drawn


def test_bars_show_the_figures_of_the_tables() -> None:
    (table,) = [cells for cells in bars.rows("benchmarks.md", "### Starts") if cells[0] == "`auto`"]
    assert f"{bars.number(table[1]):g} s<" in bars.starts()
    assert bars.crash().count(" s<") == 2 and bars.pair().count("GB/s,") == 6


def test_numbers_are_read_from_cells() -> None:
    assert [bars.number(cell) for cell in ("**1.50** (0.79 of `auto`)", "3.15 GB/s")] == [1.5, 3.15]
    with pytest.raises(ValueError, match="no number"):
        bars.number("none")


def test_a_block_that_is_not_marked_is_an_error() -> None:
    with pytest.raises(ValueError, match="substring"):
        within("security.md", "nothing", "x")


def test_a_text_is_broken_to_the_width_of_its_box() -> None:
    assert lines("one two three", 40) == ["one", "two", "three"] and lines("", 40) == []
