"""`mesh-inspect transfers`: who loads what, how fast, and from whom."""

from __future__ import annotations

from dataclasses import dataclass

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import HEADERS, MODEL, SELECTOR, asks_mesh, output, subcommand
from mesh_inspect.output.printing import FORMATS, Answer, print_answer
from mesh_inspect.output.transfers import TRANSFERS, summary
from mesh_inspect.view.keys import Requirement, selected
from mesh_inspect.view.rows import HoldingRow, matches, rows_of
from mesh_inspect.view.transfers import Transfers, transfers_of


@dataclass(frozen=True, slots=True)
class _LoadsWanted:
    """Which loads are printed, and how."""

    mesh: str
    form: str
    model: str | None
    requirements: tuple[Requirement, ...]
    headers: bool

    def of(self, rows: tuple[HoldingRow, ...]) -> Transfers:
        """The loads that are asked for. Their sources may be any members."""
        return transfers_of(rows, self._wanted)

    def _wanted(self, row: HoldingRow) -> bool:
        named = self.model is None or matches(row.model, self.model)
        return named and bool(selected((row,), self.requirements))

    def print(self, transfers: Transfers, *, headers: bool) -> None:
        """Print loads; a table without any is not printed."""
        answer = Answer(
            transfers.loads,
            TRANSFERS,
            summary(transfers, self.mesh),
            lambda: transfers.document(self.mesh),
            "transfers",
            lambda load: (load.row.member.id,),
        )
        print_answer(answer, self.form, headers=headers)


@subcommand(
    "transfers",
    "transfers --watch",
    "transfers -o wide -l 'model=Qwen/*'",
    "transfers -o json | jq '.transfers[] | select(.state == \"idle\")'",
)
@output(*FORMATS)
@SELECTOR
@MODEL
@HEADERS
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Then print what changes, until Ctrl-C. With -o table, wide or jsonl.",
)
@asks_mesh
def command(
    inquiry: Inquiry,
    form: str,
    requirements: tuple[Requirement, ...],
    model: str | None,
    headers: bool,
    watch: bool,
) -> InspectExit:
    """Print who loads what, how fast, and from whom.

    Most of the time nothing is loaded: stderr says so, and the status is 0.
    """
    if watch and form not in ("table", "wide", "jsonl"):
        raise click.UsageError(f"--watch prints a table or jsonl, not {form}")
    choice = _LoadsWanted(inquiry.settings.name, form, model, requirements, headers)
    if watch:
        return _watch(inquiry, choice)
    _print(choice, choice.of(rows_of(inquiry.everybody())))
    return InspectExit.OK


def _print(choice: _LoadsWanted, transfers: Transfers) -> None:
    choice.print(transfers, headers=choice.headers)
    if not transfers.loads:
        # An answer, and no failure of whoever asks.
        chosen = choice.requirements or choice.model is not None
        say(f"nobody{' of those selected' if chosen else ''} loads in mesh {choice.mesh!r}")


def _watch(inquiry: Inquiry, choice: _LoadsWanted) -> InspectExit:
    """Print what is so, then what changes, until somebody ends it."""
    from mesh_inspect.output.documents import ascii_json
    from mesh_inspect.output.following import stop_without_a_reader
    from mesh_inspect.output.transfers import ended
    from mesh_inspect.watching import Sight, sights

    before: tuple[Sight, Transfers] | None = None
    for sight in sights(inquiry):
        transfers = choice.of(sight.rows)
        if choice.form == "jsonl":
            news = (sight.silence, transfers.news)
            if before is None or news != (before[0].silence, before[1].news):
                told = {"event": "transfers", "at": sight.at, "silence": sight.silence}
                print(ascii_json(told | transfers.document(choice.mesh), indent=False))
        elif before is None:
            _print(choice, transfers)
        else:
            for line in ended(before, (sight, transfers)):
                print(line)
            choice.print(transfers.since(before[1]), headers=False)
        stop_without_a_reader()
        before = sight, transfers
    raise AssertionError("looks have no end")
