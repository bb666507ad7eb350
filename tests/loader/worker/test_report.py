from __future__ import annotations

import json
from pathlib import Path

import pytest

from netloader.replica.pull import Delivery
from netloader.worker.report import Report


def report(**changes: object) -> Report:
    values: dict[str, object] = {
        "model": "m",
        "role": "target",
        "rank": 3,
        "origin": "peers",
        "nbytes": 2_000_000_000,
        "seconds": 0.5,
        "deliveries": (Delivery("h:1", "gloo", 2_000_000_000, 0.5),),
    }
    return Report(**values | changes)  # type: ignore[arg-type]


def test_report_says_where_the_weights_came_from(tmp_path: Path) -> None:
    path = report().write(f"{tmp_path}/r")
    assert path == tmp_path / "r3.json"
    written = json.loads(path.read_bytes())
    assert written["origin"] == "peers"
    assert written["gigabytes_per_second"] == 4.0
    assert written["deliveries"] == [
        {"endpoint": "h:1", "transport": "gloo", "nbytes": 2_000_000_000, "seconds": 0.5}
    ]


def test_draft_has_a_file_of_its_own(tmp_path: Path) -> None:
    assert report(role="draft").write(f"{tmp_path}/r").name == "r3.draft.json"


def test_earlier_report_is_replaced_and_nothing_else_left(tmp_path: Path) -> None:
    report().write(f"{tmp_path}/r")
    report(origin="storage").write(f"{tmp_path}/r")
    assert [path.name for path in tmp_path.iterdir()] == ["r3.json"]


def test_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        report().write(f"{tmp_path}/none/r")


def test_no_time_is_no_rate() -> None:
    assert report(seconds=0.0).gigabytes_per_second == 0.0
