"""The command `mesh-inspect`: read the command line, run a command, report an exit status.

exit status   0   the answer was printed
              2   a mesh answered, but nothing in it matches
              3   no mesh answered
             64   the command line or a setting cannot be used

`doctor` has statuses of its own (`exits.py`).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mesh_inspect.commands.list import command as list_command
from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import COMPLETE, PROGRAM, Means, say
from mesh_inspect.options import InspectCommand, naming
from netloader import __version__
from netmesh import MeshError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_HELP: Final = """\
Show the members of a Netloader mesh and the weights they hold, without becoming a member.

Without a command it lists the members. Options of `list` may stand before a command that has them.

Without --seed the command looks where a worker would: in NETLOADER_MESH_SEEDS, in the scheduler's
environment and in the same-host directory. The cluster key and all other settings come from the
same NETLOADER_MESH_* variables as a worker's.
"""

_EPILOG: Final = """\
\b
exit status:
  0    the answer was printed
  1    something else went wrong (message on stderr)
  2    a mesh answered, but no member matches
  3    no mesh answered; stderr says what was tried
  64   the command line or a setting cannot be used
`doctor` ends with 0 (healthy), 1 (findings), 2 (usage) or 3 (nobody).

\b
examples:
  mesh-inspect
  mesh-inspect --seed 10.0.0.1 -o wide
  mesh-inspect list -l state=ready --by model
  eval "$(mesh-inspect completion bash)"
"""

_DEFAULT: Final = "list"

_COMMANDS: Final[Mapping[str, str]] = {
    "list": "Print the members and what they hold (the default).",
    "transfers": "Print who loads what, how fast, and from whom.",
    "get": "Print everything that members publish.",
    "models": "Print what the mesh can serve, and which ranks are missing.",
    "top": "Show the members and what moves on the whole screen.",
    "match": "Say who could feed a worker, and why each other member could not.",
    "doctor": "Look for what keeps workers on this host and the mesh apart.",
    "wait": "Wait until members are ready.",
    "web": "Show a live map of the mesh in a browser.",
    "record": "Write what a mesh does to a file.",
    "forget": "Tell the mesh that a dead member will not come back.",
    "keys": "Count the members that serve by each cluster key.",
    "keygen": "Print a new cluster key.",
    "schema": "Print the JSON schema of every document.",
    "completion": "Print what makes a shell complete the command line.",
}
"""What each command does, told without importing it: a look at the members must not wait for what
others need. `command` of `commands/NAME.py` is the command."""

_ALIASES: Final[Mapping[str, str]] = {"peers": "list"}

_LEADING: Final = f"{PROGRAM}.leading"


class InspectGroup(click.Group):
    """The commands, each imported when it is used. Takes options of `list` before a command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in _COMMANDS:
            return None
        found = import_module(f"mesh_inspect.commands.{name}").command
        assert isinstance(found, InspectCommand)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options. Nobody who waits for a key waits for the import of all commands."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=told)
            for name, told in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the command's name. What stands before it is judged by the command."""
        given = list(args)
        with naming(ctx):
            options, rest, _ = self.make_parser(ctx).parse_args(list(args))
        at_once = {param.name for param in self.get_params(ctx) if param.is_eager}
        if options.keys() & at_once or (ctx.resilient_parsing and not rest):
            return super().parse_args(ctx, given)
        ctx.meta[_LEADING] = given[: len(given) - len(rest)]
        return super().parse_args(ctx, rest or [_DEFAULT])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """What stands before the command belongs to it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, [*ctx.meta.get(_LEADING, ()), *rest]


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print(f"{PROGRAM} {__version__}")
        ctx.exit()


app: Final = InspectGroup(
    PROGRAM,
    params=[
        *list_command.params,
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Print the version of netloader-mesh.",
        ),
    ],
    help=_HELP,
    epilog=_EPILOG,
)


def main(argv: Sequence[str] | None = None, means: Means | None = None) -> int:
    """Run the command and return its exit status."""
    means = means or Means()
    if (instruction := os.environ.get(COMPLETE)) is not None:
        from mesh_inspect.completion import complete

        return complete(app, means, instruction)
    if sys.stderr is None:
        # It was closed, and `print` would take stdout for it.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the program runs
    if sys.stdout is None:
        say("stdout is closed: there is nowhere to write the answer to")
        return InspectExit.FAILED
    # A terminal that cannot show a name's characters must not crash the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = list(sys.argv[1:] if argv is None else argv)
        with app.make_context(PROGRAM, arguments, obj=means) as context:
            status: Any = app.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.UsageError as error:
        return _usage(error)
    except MeshError as error:
        say(str(error))
        return InspectExit.FAILED
    except BrokenPipeError:
        # The reader (`| head`) has enough.
        _drop_what_is_left()
        return InspectExit.OK
    except OSError as error:
        say(f"cannot write the answer: {error}")
        _drop_what_is_left()
        return InspectExit.FAILED
    except KeyboardInterrupt:
        return InspectExit.INTERRUPTED
    assert isinstance(status, int)
    return status


def _drop_what_is_left() -> None:
    """What is not written yet must not be flushed at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: click.UsageError) -> int:
    """Say what is wrong with the command line."""
    status: int = InspectExit.USAGE
    if error.ctx is not None:
        print(error.ctx.get_usage(), file=sys.stderr)
        if isinstance(error.ctx.command, InspectCommand):
            status = error.ctx.command.usage_status
    say(error.format_message())
    return status
