"""`mesh-inspect get MEMBER`: everything that members publish."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import MEMBER, asks_mesh, output, subcommand
from mesh_inspect.output.documents import ascii_json, ascii_yaml
from mesh_inspect.output.text import escape
from mesh_inspect.view.details import details, found, lines
from mesh_inspect.view.entries import API_VERSION
from mesh_inspect.view.rows import rows_of


@subcommand(
    "get 10.0.0.7:17946",
    "get 10.0.0.7 10.0.0.8 -o yaml",
    "get 10.0.0.7:17946 -o json",
)
@click.argument("wanted", metavar="MEMBER...", nargs=-1, required=True, type=MEMBER)
@output("text", "json", "jsonl", "yaml")
@asks_mesh
def command(inquiry: Inquiry, wanted: Sequence[str], form: str) -> InspectExit:
    """Print everything that members publish.

    MEMBER is HOST:PORT as `list -o wide` shows it, a host, or what a member's address begins with,
    if only one member is meant.
    """
    mesh = inquiry.settings.name
    rows = rows_of(inquiry.everybody())
    ids, problems = found(wanted, [row.member.id for row in rows])
    documents = [details(id, rows) for id in ids]
    if form == "json":
        print(ascii_json({"apiVersion": API_VERSION, "mesh": mesh, "members": documents}))
    elif form == "yaml":
        print(ascii_yaml({"apiVersion": API_VERSION, "mesh": mesh, "members": documents}))
    elif form == "jsonl":
        sys.stdout.writelines(f"{ascii_json(one, indent=False)}\n" for one in documents)
    else:
        texts = ("\n".join(map(escape, lines(one))) for one in documents)
        sys.stdout.writelines(_apart(texts))
    for problem in problems:
        say(f"{problem} in mesh {mesh!r}")
    return InspectExit.NOTHING_MATCHES if problems else InspectExit.OK


def _apart(texts: Iterator[str]) -> Iterator[str]:
    """The texts with an empty line between them."""
    for number, text in enumerate(texts):
        yield f"\n{text}\n" if number else f"{text}\n"
