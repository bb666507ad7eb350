"""`mesh-inspect models`: what the mesh can serve."""

from __future__ import annotations

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import HEADERS, MODEL, SELECTOR, asks_mesh, output, sorting, subcommand
from mesh_inspect.output.grouped import COVERAGE
from mesh_inspect.output.printing import FORMATS, Answer, print_answer
from mesh_inspect.view.entries import API_VERSION
from mesh_inspect.view.keys import Requirement, SelectorError, known_key, ordered, selected
from mesh_inspect.view.models import COVERAGE_KEYS, Coverage, coverages
from mesh_inspect.view.rows import rows_of
from mesh_inspect.view.words import counted


@subcommand(
    "models",
    "models --model 'Qwen/*' -o wide",
    "models -l fabric=rail-1 --sort-by -missing",
    "models -o json",
)
@output(*FORMATS)
@SELECTOR
@MODEL
@sorting(COVERAGE_KEYS)
@HEADERS
@asks_mesh
def command(
    inquiry: Inquiry,
    form: str,
    requirements: tuple[Requirement, ...],
    model: str | None,
    sort: str | None,
    headers: bool,
) -> InspectExit:
    """Print what the mesh can serve.

    SOURCES says how often every rank has a source; MISSING names the ranks that have none, so that
    a new replica would read them from storage.
    """
    if sort is not None:
        try:
            known_key(sort.removeprefix("-"), COVERAGE_KEYS)
        except SelectorError as error:
            raise click.UsageError(f"--sort-by: {error}") from error
    mesh = inquiry.settings.name
    rows = selected(rows_of(inquiry.everybody(), model), requirements)
    found: list[Coverage] = coverages(rows)
    if sort is not None:
        found = list(ordered(found, sort, COVERAGE_KEYS))
    whole = sum(1 for one in found if one.complete)
    print_answer(
        Answer(
            found,
            COVERAGE,
            f"mesh {mesh}: {counted(len(found), 'model')}, {whole} complete",
            lambda: {
                "apiVersion": API_VERSION,
                "mesh": mesh,
                "models": [one.document() for one in found],
            },
            "models",
            lambda one: (one.make.model,) if one.make.model else (),
        ),
        form,
        headers=headers,
    )
    if found:
        return InspectExit.OK
    say(f"no member of mesh {mesh!r} holds such a model")
    return InspectExit.NOTHING_MATCHES
