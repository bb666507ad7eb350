"""`mesh-inspect list`: the members and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import HEADERS, MODEL, SELECTOR, asks_mesh, output, sorting, subcommand
from mesh_inspect.view.keys import KEYS, Requirement, SelectorError, known_key, ordered, selected
from mesh_inspect.view.rows import HoldingRow, matches, rows_of

if TYPE_CHECKING:
    from mesh_inspect.view.groups import By, RowGroup
    from mesh_inspect.watching import Sight

# What only some forms need is imported where it is needed: a table must not wait for it.


@dataclass(frozen=True, slots=True)
class _Wish:
    """What of the mesh is printed, and how."""

    mesh: str
    form: str
    by: By | None
    model: str | None
    requirements: tuple[Requirement, ...]
    sort: str | None
    headers: bool

    def chosen(self, rows: Sequence[HoldingRow]) -> tuple[HoldingRow, ...]:
        """The rows that are asked for."""
        found = (row for row in rows if self.model is None or matches(row.model, self.model))
        return selected(found, self.requirements)


@subcommand(
    "list",
    "list --by model",
    "list -l 'model=Qwen/*,state in (ready,loading)' --sort-by -bytes",
    "list -l status!=alive -o name",
    "list --watch",
    "list -o csv --no-headers",
)
@output("table", "wide", "json", "jsonl", "yaml", "csv", "name")
@click.option(
    "--by",
    type=click.Choice(["model", "host", "identity"]),
    help="One row for each replica of a model, for each host, or for all that hold the same.",
)
@SELECTOR
@MODEL
@sorting(KEYS)
@HEADERS
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Then print what happens, one line each, until Ctrl-C. With -o table, wide or jsonl.",
)
@asks_mesh
def command(
    inquiry: Inquiry,
    form: str,
    by: By | None,
    requirements: tuple[Requirement, ...],
    model: str | None,
    sort: str | None,
    headers: bool,
    watch: bool,
) -> InspectExit:
    """Print the members and what they hold."""
    if sort is not None:
        _check(sort, by)
    if watch and form not in ("table", "wide", "jsonl"):
        raise click.UsageError(f"--watch prints a table or jsonl, not {form}")
    wish = _Wish(inquiry.settings.name, form, by, model, requirements, sort, headers)
    if watch:
        return _watch(inquiry, wish)
    return _print(wish, rows_of(inquiry.everybody()))


def _check(sort: str, by: By | None) -> None:
    from mesh_inspect.view.groups import GROUP_KEYS

    try:
        known_key(sort.removeprefix("-"), KEYS if by is None else GROUP_KEYS)
    except SelectorError as error:
        raise click.UsageError(f"--sort-by: {error}") from error


def _print(wish: _Wish, everybody: Sequence[HoldingRow]) -> InspectExit:
    from mesh_inspect.output.members import MEMBERS, summary
    from mesh_inspect.output.printing import Answer, print_answer
    from mesh_inspect.view.entries import API_VERSION, entries_of, listed

    rows = wish.chosen(everybody)
    told = summary(rows, wish.mesh)
    if wish.by is None:
        if wish.sort is not None:
            rows = ordered(rows, wish.sort, KEYS)
        members = Answer(
            rows,
            MEMBERS,
            told,
            lambda: listed(entries_of(rows, everybody), wish.mesh),
            "members",
            lambda row: (row.member.id,),
        )
        print_answer(members, wish.form, headers=wish.headers)
    else:
        from mesh_inspect.output.grouped import group_columns
        from mesh_inspect.view.groups import GROUP_KEYS, groups

        made: Sequence[RowGroup] = groups(rows, wish.by)
        if wish.sort is not None:
            made = ordered(made, wish.sort, GROUP_KEYS)
        grouped = Answer(
            made,
            group_columns(wish.by),
            told,
            lambda: {
                "apiVersion": API_VERSION,
                "mesh": wish.mesh,
                "by": wish.by,
                "groups": [group.document() for group in made],
            },
            "groups",
            lambda group: group.members,
        )
        print_answer(grouped, wish.form, headers=wish.headers)
    if rows:
        return InspectExit.OK
    if not everybody:
        say(f"mesh {wish.mesh!r} answered, but has no members")
    elif wish.requirements:
        say(f"no member of mesh {wish.mesh!r} is selected")
    else:
        say(f"no member of mesh {wish.mesh!r} holds a model that matches {wish.model!r}")
    return InspectExit.NOTHING_MATCHES


def _watch(inquiry: Inquiry, wish: _Wish) -> InspectExit:
    """Print what is so, then what changes, until somebody ends it."""
    from mesh_inspect.output.following import documents, stop_without_a_reader, told
    from mesh_inspect.watching import sights

    before: Sight | None = None
    for sight in sights(inquiry):
        if wish.form == "jsonl":
            lines = documents(before, sight, wish.chosen, wish.mesh)
        elif before is not None:
            lines = told(before, sight, wish.chosen)
        else:
            _print(wish, sight.rows)
            lines = iter(())
        for line in lines:
            print(line)
        stop_without_a_reader()
        before = sight
    raise AssertionError("looks have no end")
