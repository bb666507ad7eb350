"""What `-o` chooses: one answer of a command, as a table or as a document."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mesh_inspect.output.documents import ascii_csv, ascii_json, ascii_yaml
from mesh_inspect.output.table import Columns, Showing, write_table
from mesh_inspect.output.text import escape
from mesh_inspect.view.entries import Entry

FORMATS: Final = ("table", "wide", "json", "jsonl", "yaml", "csv", "name")

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """Rows that a command prints, and the document that says the same."""

    rows: Sequence[T]
    columns: Columns[T]
    summary: str
    document: Callable[[], dict[str, object]]
    listed: str
    """The key of the document under which its entries are, one for each row."""
    name: Callable[[T], Sequence[str]]
    """What `-o name` prints of a row."""


def print_answer(answer: Answer[T], form: str, *, headers: bool = True) -> None:
    """Print it. A table without rows is not printed, a document without entries is."""
    if form in ("table", "wide"):
        if answer.rows:
            showing = Showing(form == "wide", headers, sys.stdout.isatty())
            write_table(answer.columns, answer.rows, sys.stdout, showing, answer.summary)
    elif form == "name":
        names = dict.fromkeys(name for row in answer.rows for name in answer.name(row))
        sys.stdout.writelines(f"{escape(name)}\n" for name in names)
    elif form == "json":
        print(ascii_json(answer.document()))
    elif form == "yaml":
        print(ascii_yaml(answer.document()))
    else:
        entries = answer.document()[answer.listed]
        assert isinstance(entries, list)
        print_entries(entries, form, headers=headers)


def print_entries(entries: Sequence[Entry], form: str, *, headers: bool = True) -> None:
    """Print entries as `jsonl` or `csv`."""
    if form == "jsonl":
        sys.stdout.writelines(f"{ascii_json(entry, indent=False)}\n" for entry in entries)
    elif entries:
        text = ascii_csv(entries)
        print(text if headers else text.partition("\n")[2])
