"""Values of the command line. Each function raises `argparse.ArgumentTypeError`, in words."""

from __future__ import annotations

import argparse
from typing import Final

from netbench.hosts import RateError, bits_per_second
from netbench.kill import MIN_SOURCES

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BINARY_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(text: str) -> int:
    """Bytes of a text like 512MB or 1GiB."""
    number = text.rstrip("KMGiB")
    unit = (_UNITS | _BINARY_UNITS).get(text[len(number) :])
    try:
        value = int(float(number) * unit) if unit is not None else 0
    except (ValueError, OverflowError):
        value = 0
    if not 0 < value < 1 << 44:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 512MB, 1GiB or 1000000")
    return value


def rate(text: str) -> str:
    """A rate in `tc`'s notation."""
    try:
        bits_per_second(text)
    except RateError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def several(text: str) -> int:
    """A number of sources of which one is killed."""
    value = count(text)
    if value < MIN_SOURCES:
        raise argparse.ArgumentTypeError("with a single source, none would be left to go on with")
    return value


def count(text: str) -> int:
    """A whole number above 0."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def placement(text: str) -> tuple[int, ...]:
    """Numbers of replicas, by host."""
    return tuple(count(part) for part in text.split(","))
