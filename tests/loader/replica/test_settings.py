"""Bounds of a pull's settings, and what they say together."""

from __future__ import annotations

import dataclasses

import pydantic
import pytest

from netloader.replica.settings import HandshakeSettings, PullSettings, WindowSettings


@pytest.mark.parametrize(
    "values",
    [
        {"timeout_s": 0},
        {"timeout_s": 3601},
        {"max_sources": 0},
        {"max_sources": 65},
        {"source_timeout_s": -1},
        {"look_s": 0},
        {"windows": 3},
    ],
)
def test_a_value_out_of_its_bounds_or_an_unknown_name_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(pydantic.ValidationError):
        PullSettings(**values)  # type: ignore[arg-type]


def test_no_wait_for_a_source_may_be_asked_for() -> None:
    assert PullSettings(source_timeout_s=0).source_timeout_s == 0


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WindowSettings().max_chunks = 3  # type: ignore[misc]


@pytest.mark.parametrize(("timeout_s", "expected"), [(1.0, 1.0), (30.0, 4.0)])
def test_a_timeout_without_progress_bounds_the_handshake_as_well(
    timeout_s: float, expected: float
) -> None:
    limits = HandshakeSettings(hello_timeout_s=4.0, rendezvous_timeout_s=4.0)
    settings = PullSettings(timeout_s=timeout_s, handshake=limits)
    assert settings.hello_timeout_s == settings.rendezvous_timeout_s == expected


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0.0, 0.05), (0.1, 0.05), (0.4, 0.1), (1.0, 0.25), (1000.0, 0.25)]
)
def test_the_first_looks_are_close_together(age_s: float, expected: float) -> None:
    settings = PullSettings(first_look_s=0.05, look_s=0.25)
    assert settings.until_next_look_s(age_s) == expected


def test_looks_can_be_closer_together_from_the_start() -> None:
    assert PullSettings(look_s=0.001).until_next_look_s(0.0) == 0.001
