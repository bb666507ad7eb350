"""Cancelling from another thread: nothing is written once it has returned."""

from __future__ import annotations

import threading

import torch
from tests.fastest import HANG_S

from netloader.replica.cancellation import Cancellation
from netloader.transport import Pending


class Aborted:
    """A group that only remembers why it was aborted."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        raise NotImplementedError

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        raise NotImplementedError

    def abort(self, reason: str = "") -> None:
        self.reasons.append(reason)


def test_it_aborts_the_group_with_the_reason() -> None:
    cancellation, group = Cancellation(), Aborted()
    cancellation.guard(group)
    assert (cancellation.reason, group.reasons) == (None, [])
    cancellation.cancel("slow")
    assert (cancellation.reason, group.reasons) == ("slow", ["slow"])


def test_a_group_that_is_opened_too_late_is_aborted_at_once() -> None:
    cancellation, group = Cancellation(), Aborted()
    cancellation.cancel("slow")
    cancellation.guard(group)
    assert group.reasons == ["slow"]


def test_the_first_reason_counts_and_everybody_waits_until_the_group_is_closed() -> None:
    cancellation, group = Cancellation(), Aborted()
    cancellation.guard(group)
    cancellation.cancel("slow")
    cancellation.cancel("given up")
    # An abort returns once the group is closed, whoever began to close it.
    assert (cancellation.reason, group.reasons) == ("slow", ["slow", "slow"])


def test_nothing_may_be_written_afterwards() -> None:
    cancellation = Cancellation()
    with cancellation.writing() as allowed:
        assert allowed
    cancellation.cancel("slow")
    with cancellation.writing() as allowed:
        assert not allowed


def test_it_waits_for_what_is_being_written() -> None:
    cancellation, group = Cancellation(), Aborted()
    cancelled = threading.Event()

    def cancel() -> None:
        cancellation.cancel("slow")
        cancelled.set()

    cancellation.guard(group)
    thread = threading.Thread(target=cancel)
    with cancellation.writing() as allowed:
        thread.start()
        assert allowed
        # The other thread is as far as it can get: it waits for this one.
        while not group.reasons:
            assert not cancelled.wait(0.001)
        assert not cancelled.wait(0.05)
    thread.join(HANG_S)
    assert cancelled.is_set()
