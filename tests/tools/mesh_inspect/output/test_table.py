"""Text from rows: for terminals, pipes and programs."""

import io
import json
import re
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tools.mesh_inspect.support import ALONE, GENERATION, holding, member

from mesh_inspect.output.documents import ascii_json
from mesh_inspect.output.members import MEMBERS, summary
from mesh_inspect.output.table import Showing, write_table
from mesh_inspect.output.text import escape
from mesh_inspect.view.entries import entries_of, listed
from mesh_inspect.view.rows import HoldingRow, RankPlace, rows_of
from mesh_inspect.view.words import human_age, human_bytes, short_layout
from netloader import __version__
from netmesh import Status

HOSTILE = "\x1b[31m[bold red]x[/] :boom: \x07\r\n\u202egnp\u2028\x9b2J\x7f[link=http://x]y"


def table(rows: tuple[HoldingRow, ...], *, wide: bool = False, terminal: bool = False) -> str:
    out = io.StringIO()
    showing = Showing(wide=wide, terminal=terminal)
    write_table(MEMBERS, rows, out, showing, summary(rows, "default"))
    return out.getvalue()


def to_json(rows: tuple[HoldingRow, ...], *, mesh: str) -> str:
    return ascii_json(listed(entries_of(rows), mesh))


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def cells(line: str) -> list[str]:
    return line.split()


def test_a_table_has_a_heading_and_a_line_for_each_row() -> None:
    place = replace(ALONE, tp_size=2, tp_rank=1)
    worker = member(holding("org/model-7b", place, serving=2))
    heading, first, second = table(rows_of([worker, member(id="10.0.0.2:17946")])).splitlines()
    assert cells(heading) == [
        *("MODEL", "ROLE", "LAYOUT", "STATUS", "HOST"),
        *("ENDPOINT", "BACKEND", "BYTES", "SESSIONS", "AGE"),
    ]
    assert cells(first) == ["-", "-", "-", "alive", "10.0.0.2", "-", "-", "-", "-", "2m05s"]
    assert cells(second) == [
        *("org/model-7b", "target", "tp1/2", "ready", "10.0.0.1"),
        *("10.0.0.1:31000", "gloo", "1.5GiB", "serving:2", "2m05s"),
    ]


def test_a_wide_table_tells_more() -> None:
    one = holding(state="unavailable", reason="originals were not kept")
    heading, line = table(rows_of([member(one)]), wide=True).splitlines()
    assert cells(heading)[10:] == [
        *("MEMBER", "GENERATION", "WEIGHTS", "ORIGIN", "GIVEN", "CONTENT", "IDENTITY", "REASON"),
    ]
    assert cells(line)[10:17] == [
        *("10.0.0.1:17946", str(GENERATION), "checkpoint", "storage"),
        *("/cache/org/model-7b", "sample:c0ffee", one.identity),
    ]
    assert line.endswith("originals were not kept")


@pytest.mark.parametrize("wide", [False, True])
def test_a_pipe_gets_whole_names_without_colour(
    wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    model = "/models/" + "long-name/" * 60
    lines = table(rows_of([member(holding(model), status=Status.DEAD)]), wide=wide).splitlines()
    assert len(lines) == 2
    assert cells(lines[1])[0] == model
    assert all(line.isascii() and line.isprintable() and line == line.rstrip() for line in lines)


def test_a_terminal_gets_colour_a_folded_name_and_a_summary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = rows_of([member(holding("m" * 200), holding("short"))])
    text = table(rows, terminal=True)
    assert "\x1b[32mready" in text
    *lines, summary = without_colours(text).splitlines()
    assert summary == "mesh default: 1 member, 2 ready"
    assert len(lines) > 4
    assert all(len(line) <= 120 for line in lines)
    assert sum(re.match("m*", line).end() for line in lines) == 200  # type: ignore[union-attr]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in table(rows, terminal=True)


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        (160, "MODEL ROLE LAYOUT STATUS HOST ENDPOINT BACKEND BYTES SESSIONS AGE"),
        (80, "MODEL ROLE LAYOUT STATUS HOST BYTES SESSIONS AGE"),
        (40, "MODEL LAYOUT STATUS HOST"),
        (1, "MODEL STATUS"),
    ],
)
def test_a_narrow_terminal_gets_the_columns_that_matter_most(
    columns: int, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    rows = rows_of([member(holding("Qwen/Qwen3-30B"), id="10.0.0.1:17946")])
    heading, *lines, summary = without_colours(table(rows, terminal=True)).splitlines()
    assert heading.split() == kept.split()
    assert len(heading) <= max(columns, 24 + 2 + len("STATUS")) and len(lines) == 1
    left_out = 10 - len(kept.split())
    assert summary.endswith(
        f"{left_out} columns left out, -o wide has all" if left_out else "1 ready"
    )


@pytest.mark.parametrize(
    ("name", "value", "coloured"),
    [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("CLICOLOR", "0", False), ("X", "", True)],
)
def test_colours_are_switched_off_as_elsewhere(
    name: str, value: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("NO_COLOR", "CLICOLOR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(name, value)
    text = table(rows_of([member(holding("m"))]), terminal=True)
    assert ("\x1b[32m" in text) == coloured


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_text_reaches_no_terminal(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    one = holding(HOSTILE, endpoint=HOSTILE, backend=HOSTILE, reason=HOSTILE, identity=HOSTILE)
    text = table(rows_of([member(one)]), wide=True, terminal=terminal)
    text = without_colours(text)
    assert len(text.splitlines()) == (3 if terminal else 2)
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[31m[bold red]x[/] :boom: \\x07\\r\\n\\u202egnp\\u2028\\x9b2J\\x7f" in text
    assert text.count("\\x1b[31m[bold red]x[/]") == text.count("[link=http://x]y") == 6


def test_a_dumb_terminal_is_treated_as_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    rows = rows_of([member(holding("m" * 200))])
    assert table(rows, terminal=True) == table(rows, terminal=False)


@given(st.text())
def test_whatever_is_escaped_is_printable(text: str) -> None:
    assert escape(text).isprintable()
    assert not text.isprintable() or escape(text) == text


def test_the_document_has_every_key() -> None:
    place = replace(ALONE, tp_size=2, tp_rank=1)
    one = holding("org/model-7b", place, serving=2)
    text = to_json(rows_of([member(one)]), mesh="default")
    assert json.loads(text) == {
        "apiVersion": "mesh-inspect/v1",
        "mesh": "default",
        "members": [
            {
                "id": "10.0.0.1:17946",
                "generation": GENERATION,
                "status": "alive",
                "ready": True,
                "model": "org/model-7b",
                "given": "/cache/org/model-7b",
                "content": "sample:c0ffee",
                "identity": one.identity,
                "role": "target",
                "layout": asdict(place),
                "backend": "gloo",
                "transports": ["gloo"],
                "host": "10.0.0.1",
                "endpoint": "10.0.0.1:31000",
                "bytes": 3 << 29,
                "held_bytes": 0,
                "total_bytes": 0,
                "reads_storage": False,
                "sessions": {"serving": 2, "pulling": 0},
                "age_s": 125.25,
                "state": "ready",
                "reason": None,
                "accused_by": 0,
                "origin": "storage",
                "carried_by": [],
                "weights_layout": "checkpoint",
                "rate": 0,
                "feeds": [],
                "awaits": [],
                "fabric": None,
                "release": __version__,
                "started": 1_780_000_000.0,
            }
        ],
    }


def test_a_worker_that_loads_shows_how_far_it_is_and_where_from() -> None:
    one = holding("m", state="loading", origin="", held=1 << 28, total=1 << 30, storage="reading")
    rows = rows_of([member(one)])
    assert " 25% of 1.0GiB " in table(rows)
    assert " reading storage " in table(rows, wide=True)
    (entry,) = json.loads(to_json(rows, mesh="default"))["members"]
    assert (entry["held_bytes"], entry["total_bytes"]) == (1 << 28, 1 << 30)
    assert entry["reads_storage"]


def test_a_worker_that_claims_more_than_all_has_all() -> None:
    one = holding("m", state="loading", held=1 << 40, total=1 << 30)
    assert " 100% of 1.0GiB " in table(rows_of([member(one)]))


def test_all_transports_are_shown_and_what_carried_the_weights() -> None:
    one = holding(
        "m", backend="hccl", transports=("hccl", "gloo"), origin="peers", carried=("gloo",)
    )
    rows = rows_of([member(one)])
    assert " hccl,gloo " in table(rows)
    assert " peers:gloo " in table(rows, wide=True)
    (entry,) = json.loads(to_json(rows, mesh="default"))["members"]
    assert (entry["backend"], entry["transports"]) == ("hccl", ["hccl", "gloo"])
    assert (entry["origin"], entry["carried_by"]) == ("peers", ["gloo"])


def test_a_member_without_holding_has_the_same_keys() -> None:
    text = to_json(rows_of([member(holding("m")), member(id="10.0.0.2:1")]), mesh="default")
    without, whole = json.loads(text)["members"]
    assert list(without) == list(whole)
    assert list(without["layout"]) == list(whole["layout"])
    assert (without["model"], without["identity"], without["bytes"]) == (None, None, 0)
    assert without["sessions"] == {"serving": 0, "pulling": 0}


def test_an_empty_document_is_a_document() -> None:
    assert json.loads(to_json((), mesh="m")) == {
        "apiVersion": "mesh-inspect/v1",
        "mesh": "m",
        "members": [],
    }


def test_the_document_is_plain_ascii_and_says_the_same() -> None:
    text = to_json(rows_of([member(holding(HOSTILE))]), mesh="default")
    assert all(line.isascii() and line.isprintable() for line in text.splitlines())
    assert json.loads(text)["members"][0]["model"] == HOSTILE


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (RankPlace(), ""),
        (RankPlace(1, 0, 1, 0, 1, 0), "tp0/1"),
        (RankPlace(4, 3, 2, 1, 1, 0), "tp3/4,pp1/2"),
        (RankPlace(4, 3, 2, 1, 8, 7), "tp3/4,pp1/2,ep7/8"),
        (RankPlace(2, None, 1, 0, 1, 0), "tp?/2"),
    ],
)
def test_layouts_are_short(place: RankPlace, text: str) -> None:
    assert short_layout(place) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (200_000_000, "190.7MiB"),
        (3 << 29, "1.5GiB"),
        (2**63 - 1, "8.0EiB"),
    ],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (7620, "2h07m"),
        (86400 * 4 + 3600 * 3, "4d03h"),
    ],
)
def test_ages_are_readable(seconds: float, text: str) -> None:
    assert human_age(seconds) == text
