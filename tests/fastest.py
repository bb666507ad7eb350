"""Bounds on time that hold on a busy machine: the fastest of some runs counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class TooSlowError(AssertionError):
    """Something took longer than it may on a machine that has nothing else to do."""


def took_less(took_s: float, limit_s: float) -> None:
    """Raise `TooSlowError` when something took `limit_s` or more."""
    if took_s >= limit_s:
        raise TooSlowError(f"took {took_s:.2f} s, and at most {limit_s:g} s are allowed")


def fastest_of(tries: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Run a test again when it was only too slow: the fastest of `tries` runs counts.

    A busy machine makes some runs slow; a fault of ours makes all of them slow.
    """

    def decorate(test: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> T:
            for _ in range(tries - 1):
                with suppress(TooSlowError):
                    return test(*args, **kwargs)
            return test(*args, **kwargs)

        return run

    return decorate
