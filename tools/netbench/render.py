"""Reports for people: every figure with its name. Long lists are left to `--json`."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table

from netbench.child import Json
from netbench.figures import rounded


def write(report: Json, *, as_json: bool, out: TextIO = sys.stdout) -> None:
    """Print a report as one JSON document or as a table."""
    report = {key: rounded(value) for key, value in report.items()}
    if as_json:
        print(json.dumps(report, indent=2), file=out)
        return
    console = Console(file=out, highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    inner: list[tuple[str, Json]] = []
    for key, value in report.items():
        match value:
            case dict() if all(isinstance(one, dict) for one in value.values()):
                inner.append((key, value))
            case dict() | list():
                continue
            case _:
                table.add_row(key, str(value))
    console.print(table)
    for name, rows in inner:
        console.print(_table(name, rows))


def _table(name: str, rows: Json) -> Table:
    """A table with a column for each figure and a row for each case."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    shown = [key for key in columns if not any(isinstance(r.get(key), list) for r in rows.values())]
    table = Table(name, *shown, box=None, pad_edge=False)
    for case, row in rows.items():
        table.add_row(case, *(str(row.get(key, "")) for key in shown))
    return table
