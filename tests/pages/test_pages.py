"""What is made of the documentation is what `python -m tests.pages` makes."""

from __future__ import annotations

import pytest

from tests.pages import DOCS, MADE, settings


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
