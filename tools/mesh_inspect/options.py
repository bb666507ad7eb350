"""The options that commands share, and what a command is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import (
    DEFAULT_TIMEOUT_S,
    DOCTOR_TIMEOUT_S,
    PROGRAM,
    WAIT_TIMEOUT_S,
    Inquiry,
    Means,
    nobody_answered,
    say,
)
from mesh_inspect.view.keys import KEYS, Requirement, SelectorError, selector
from netmesh import NoMeshError, SettingsError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    # Later versions of click have made it generic.
    ValueType = click.ParamType[Any]
else:
    ValueType = click.ParamType

MAX_TIMEOUT_S: Final = 3600.0


class InspectCommand(click.Command):
    """A command whose help ends with examples. Its function returns the exit status."""

    usage_status: int = InspectExit.USAGE
    """The exit status for a command line that cannot be used."""
    examples: tuple[str, ...] = ()
    """What follows `mesh-inspect` in each."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with naming(ctx):
            return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {PROGRAM} {example}\n")


@contextmanager
def naming(ctx: click.Context) -> Iterator[None]:
    """What is wrong with the command line names the command. click forgets it where an option lacks
    its value."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or ctx
        raise


def subcommand(
    *examples: str, usage_status: int = InspectExit.USAGE, **settings: Any
) -> Callable[[Callable[..., int]], InspectCommand]:
    """Make a function a command, with examples for its help. The function's docstring is the help;
    its name stands in the table of `cli`. `settings`: as `click.command` takes them."""

    def decorate(run: Callable[..., int]) -> InspectCommand:
        name = run.__module__.rpartition(".")[2]
        made = click.command(name, cls=InspectCommand, **settings)(run)
        made.usage_status, made.examples = usage_status, examples
        return made

    return decorate


class Seconds(ValueType):
    """A time above 0 and at most `MAX_TIMEOUT_S`."""

    name = "seconds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_TIMEOUT_S:  # also refuses nan
            self.fail(
                f"{str(value)!r} is not a number of seconds above 0 and at most {MAX_TIMEOUT_S:g}",
                param,
                ctx,
            )
        return seconds


SEED: Final = click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Ask only this member (repeatable; takes every form of MESH_SEEDS).",
)
MESH: Final = click.option(
    "--mesh",
    metavar="NAME",
    help="Name of the mesh (default: NETLOADER_MESH_NAME, 'default').",
)
TIMEOUT: Final = click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help=(
        f"How long to wait for an answer (default: {DEFAULT_TIMEOUT_S:g}; "
        f"wait: {WAIT_TIMEOUT_S:g}; doctor, as a whole: {DOCTOR_TIMEOUT_S:g})."
    ),
)


class SelectorText(ValueType):
    """`-l`."""

    name = "selector"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Requirement, ...]:
        try:
            return selector(str(value))
        except SelectorError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from mesh_inspect.completion import selectors

        return selectors(ctx, incomplete)


class FromMesh(ValueType):
    """A text that is completed with what members say under a key."""

    name = "text"

    def __init__(self, key: str) -> None:
        self._key = key

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from mesh_inspect.completion import values

        return values(ctx, self._key, incomplete)


MEMBER: Final = FromMesh("id")

MODEL: Final = click.option(
    "--model",
    metavar="NAME",
    type=FromMesh("model"),
    help="Only holdings of this model; * and ? match anything.",
)
SELECTOR: Final = click.option(
    "-l",
    "--selector",
    "requirements",
    type=SelectorText(),
    default="",
    metavar="SELECTOR",
    help=(
        "Only rows for which this holds: key=value, key!=value, 'key in (a,b)', "
        "'key notin (a,b)', with commas between them; * and ? match anything. "
        f"Keys: {', '.join(KEYS)}."
    ),
)
HEADERS: Final = click.option(
    "--no-headers",
    "headers",
    is_flag=True,
    # Versions of click differ in what the default of a flag with a value of its own means.
    callback=lambda ctx, param, left_out: not left_out,
    help="Leave out the heading.",
)


def sorting(keys: Iterable[str]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The option `--sort-by`, which completes these keys."""

    def completed(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        from mesh_inspect.completion import offered

        return offered(keys, incomplete)

    return click.option(
        "--sort-by",
        "sort",
        metavar="KEY",
        shell_complete=completed,
        help="Sort by this key; -KEY: the largest first.",
    )


def asks_mesh(run: Callable[..., int]) -> Callable[..., int]:
    """Give a command's function an `Inquiry` first, made of `--seed`, `--mesh` and `--timeout`.

    What the function raises about settings and silent meshes becomes a message and a status.
    """

    @SEED
    @MESH
    @TIMEOUT
    @click.pass_context
    @functools.wraps(run)
    def asking(
        ctx: click.Context,
        /,
        seeds: tuple[str, ...],
        mesh: str | None,
        timeout: float | None,
        **options: object,
    ) -> int:
        inquiry = Inquiry(ctx.obj or Means(), seeds, mesh, timeout)
        try:
            return run(inquiry, **options)
        except SettingsError as error:
            say(str(inquiry.in_words_of_the_command(error)))
            assert isinstance(ctx.command, InspectCommand)
            return ctx.command.usage_status
        except NoMeshError as error:
            say(nobody_answered(error, inquiry.settings, seeds_only=inquiry.seeds_only))
            return InspectExit.NO_MESH

    return asking


def output(*formats: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The option `-o`, of which the first format is the default."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to print it.",
    )
