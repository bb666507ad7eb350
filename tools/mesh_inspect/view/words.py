"""Places, numbers and times as people read them. Pure."""

from __future__ import annotations

from typing import Final

from mesh_inspect.view.rows import RankPlace

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_NOWHERE: Final = RankPlace()


def short_layout(place: RankPlace) -> str:
    """`tp0/2,pp1/4`: rank and size in each dimension that is split; tensor parallel always."""
    parts = [f"tp{_known(place.tp_rank)}/{_known(place.tp_size)}"]
    if place.pp_size != 1:
        parts.append(f"pp{_known(place.pp_rank)}/{_known(place.pp_size)}")
    if place.ep_size != 1:
        parts.append(f"ep{_known(place.ep_rank)}/{_known(place.ep_size)}")
    return "" if place == _NOWHERE else ",".join(parts)


def human_bytes(count: int) -> str:
    """`1.5GiB`, without a space, so that a cell stays one word."""
    unit = min(max(0, count.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{count}B" if unit == 0 else f"{count / 1024**unit:.1f}{_UNITS[unit]}"


def human_rate(per_second: int) -> str:
    """`1.5GiB/s`."""
    return f"{human_bytes(per_second)}/s"


def human_age(seconds: float) -> str:
    """The two largest units: `42s`, `3m05s`, `2h07m`, `4d03h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def counted(number: int, noun: str) -> str:
    """`1 member`, `2 members`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)
