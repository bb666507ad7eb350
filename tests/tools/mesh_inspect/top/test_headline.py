"""The head says who is there, what moves and how old that is, as far as it fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tests.tools.mesh_inspect.support import holding, member

from mesh_inspect.top.headline import GAP, LOW, Freshness, headline
from mesh_inspect.top.picture import Picture
from netmesh import Status

PICTURE = Picture.of(
    (
        member(holding("org/a"), id="a:1"),
        member(holding("org/a"), holding("org/b", role="draft"), id="b:1"),
        member(holding("org/a", state="loading", total=8 << 30, rate=3 << 29), id="c:1"),
        member(holding("org/a"), id="d:1", status=Status.STALLED),
        member(holding("org/a", state="loading", rate=5), id="e:1", status=Status.DEAD),
    )
)


def head(fresh: Freshness, width: int = 80, height: int = 24, picture: Picture = PICTURE) -> str:
    lines = headline("prod", picture, fresh, width, height)
    return "\n".join(GAP.join(piece.text for piece in line) for line in lines)


def test_it_counts_members_and_tells_rate_source_and_age() -> None:
    assert head(Freshness(0.4, "a:1")) == (
        "mesh prod  5 members  3 alive  1 stalled  1 dead  2 ready\n"
        "1.5GiB/s in 1 load  told by a:1  0s ago"
    )


def test_silence_is_said_with_its_length_and_reason() -> None:
    silent = Freshness(75.0, "a:1", "no member of mesh 'prod' answered within 3 s")
    assert head(silent).endswith(
        "\nNOBODY ANSWERS for 1m15s  no member of mesh 'prod' answered within 3 s"
    )
    assert head(silent, 58).endswith("\nNOBODY ANSWERS for 1m15s  no member of mesh 'prod' answer…")
    assert "NOBODY ANSWERS yet" in head(Freshness(None, "", "nobody"), picture=Picture())
    assert "looking for a member" in head(Freshness(), picture=Picture())


def test_a_held_picture_says_so() -> None:
    assert "PAUSED, 12s old" in head(Freshness(12.0, "a:1", paused=True))


@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        (Freshness(1.0, "a:1"), "1.5GiB/s in 1 load  5 members  1 dead"),
        (Freshness(9.0, "a:1", "nobody"), "NOBODY ANSWERS for 9s  5 members"),
        (Freshness(9.0, "a:1", paused=True), "PAUSED, 9s old  5 members"),
    ],
)
def test_a_small_screen_has_one_line_with_what_matters(fresh: Freshness, said: str) -> None:
    line = head(fresh, 40, 10)
    assert line.startswith(said) and len(line) <= 40 and "\n" not in line


def test_what_others_wrote_is_escaped() -> None:
    assert "told by a\\x1b[2J" in head(Freshness(1.0, "a\x1b[2J"), 200)
    assert "no\\x07 answer" in head(Freshness(1.0, "", "no\x07 answer"), 200)


texts = st.text(max_size=100)
ages = st.none() | st.floats(0, 1e9)
fresh = st.builds(Freshness, ages, texts, texts, st.booleans())


@given(fresh, st.integers(20, 200), st.integers(5, 60))
def test_no_line_is_longer_than_the_screen(fresh: Freshness, width: int, height: int) -> None:
    lines: Any = head(fresh, width, height).split("\n")
    assert len(lines) == (1 if height < LOW else 2)
    assert all(line.isprintable() for line in lines)
    # What matters most is there, even where the screen cuts it.
    assert all(cell_len(line) <= width or GAP not in line for line in lines)
