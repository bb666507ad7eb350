"""When new keys are taken into use, by a clock of the test."""

from __future__ import annotations

import logging

import pytest
from tests.loader.support import keys

from netloader.source.rekeying import Rekeying
from netmesh import SocketSecurity

FIRST, SECOND = keys(bytes(32)), keys(bytes([1] * 32))


class RekeyingCase:
    """What was taken into use, and what the next attempts raise."""

    def __init__(self, *errors: Exception) -> None:
        self.now = 50.0
        self.used: list[SocketSecurity] = []
        self.errors = list(errors)
        self.rekeying = Rekeying(self.rekey, 2.0, lambda: self.now)

    def rekey(self, security: SocketSecurity) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.used.append(security)


def test_without_new_keys_there_is_nothing_to_do_and_nothing_to_wait_for() -> None:
    case = RekeyingCase()
    case.rekeying.attempt()
    assert case.used == []
    assert case.rekeying.due_in_s is None


def test_new_keys_are_used_at_once_and_once() -> None:
    case = RekeyingCase()
    case.rekeying.want(FIRST)
    assert case.rekeying.due_in_s == 0
    case.rekeying.attempt()
    case.rekeying.attempt()
    assert case.used == [FIRST]
    assert case.rekeying.due_in_s is None


def test_what_failed_is_tried_again_after_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    case = RekeyingCase(OSError(24, "Too many open files"))
    case.rekeying.want(FIRST)
    case.rekeying.attempt()
    assert "still let in by the keys from before" in caplog.text
    assert case.rekeying.due_in_s == 2
    case.now += 1.5
    case.rekeying.attempt()
    assert case.used == []
    assert case.rekeying.due_in_s == 0.5
    case.now += 0.5
    case.rekeying.attempt()
    assert case.used == [FIRST]


def test_newer_keys_take_the_place_of_those_that_failed_and_do_not_wait() -> None:
    case = RekeyingCase(OSError(24, "Too many open files"))
    case.rekeying.want(FIRST)
    case.rekeying.attempt()
    case.rekeying.want(SECOND)
    case.rekeying.attempt()
    assert case.used == [SECOND]


def test_what_can_never_succeed_is_said_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    case = RekeyingCase(ValueError("a source cannot get its first key"))
    with caplog.at_level(logging.ERROR):
        case.rekeying.want(FIRST)
        case.rekeying.attempt()
    assert "cannot get its first key" in caplog.text
    assert case.rekeying.due_in_s is None
