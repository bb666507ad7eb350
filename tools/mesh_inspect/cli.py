"""The command `mesh-inspect`: read the command line, run a command, report an exit status.

exit status   0   the answer was printed
              2   a mesh answered, but nothing in it matches
              3   no mesh answered
             64   the command line or a setting cannot be used

`doctor` has statuses of its own (`exits.py`).
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from mesh_inspect.exits import DoctorExit, InspectExit
from mesh_inspect.looking import (
    DEFAULT_TIMEOUT_S,
    DOCTOR_TIMEOUT_S,
    PROGRAM,
    WAIT_TIMEOUT_S,
    Arguments,
    Means,
    nobody_answered,
    say,
)
from mesh_inspect.render import escape
from netloader import __version__
from netmesh import MeshError, NoMeshError, SettingsError

MAX_TIMEOUT_S: Final = 3600.0

_DESCRIPTION = """\
Show the members of a Netloader mesh and the weights they hold, without becoming a member.
"""

_EPILOG = """\
Without --seed the command looks where a worker would: in NETLOADER_MESH_SEEDS, in the scheduler's
environment and in the same-host directory. The cluster key and all other settings come from the
same NETLOADER_MESH_* variables as a worker's.

exit status:
  0    the answer was printed
  1    something else went wrong (message on stderr)
  2    a mesh answered, but no member matches
  3    no mesh answered; stderr says what was tried
  64   the command line or a setting cannot be used
`doctor` ends with 0 (healthy), 1 (findings), 2 (usage) or 3 (nobody).
"""

_DEFAULT: Final = "peers"


@dataclass(frozen=True, slots=True)
class _Command:
    """One command. What it does is in the file of its name, which is imported when it is used: a
    look at the members must not wait for what others need."""

    help: str
    options: frozenset[str]
    """Names of `_OPTIONS`."""
    usage: int = InspectExit.USAGE
    """The exit status for a command line that cannot be used."""


_COMMON: Final = frozenset({"seed", "mesh", "timeout"})

_COMMANDS: Final[Mapping[str, _Command]] = {
    "peers": _Command("print the members (the default)", _COMMON | {"output", "model"}),
    "match": _Command(
        "say who could feed a worker, and why each other member could not",
        _COMMON | {"output"},
    ),
    "doctor": _Command(
        "look for what keeps workers on this host and the mesh apart",
        _COMMON | {"output"},
        DoctorExit.USAGE,
    ),
    "wait": _Command("wait until members are ready", _COMMON | {"model"}),
    "forget": _Command("tell the mesh that a dead member will not come back", _COMMON),
    "keys": _Command("count the members that serve by each cluster key", _COMMON),
    "keygen": _Command(
        "print a new cluster key: (umask 077; mesh-inspect keygen > mesh.key)",
        frozenset(),
    ),
}


class _InspectParser(argparse.ArgumentParser):
    """Exits with 64 where argparse would exit with 2."""

    usage_status: int = InspectExit.USAGE

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.usage_status, f"{self.prog}: {escape(message)}\n")


def main(argv: Sequence[str] | None = None, means: Means | None = None) -> int:
    """Run the command and return its exit status. A usage error raises SystemExit."""
    options = _parsed(argv)
    command = _COMMANDS[options.command or _DEFAULT]
    # A terminal that cannot show a name's characters must not crash the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(options, means or Means())
        sys.stdout.flush()
    except SettingsError as error:
        say(options.in_words_of_the_command(error))
        return command.usage
    except NoMeshError as error:
        say(nobody_answered(error, options.settings, seeds_only=options.seeds_only))
        return InspectExit.NO_MESH
    except MeshError as error:
        say(str(error))
        return InspectExit.FAILED
    except BrokenPipeError:
        # The reader (`| head`) has enough. Nothing must be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InspectExit.OK
    except KeyboardInterrupt:
        return InspectExit.INTERRUPTED
    return status


def _run(options: Arguments, means: Means) -> int:
    run: Callable[[Arguments, Means], int]
    match options.command or _DEFAULT:
        case "doctor":
            from mesh_inspect.commands.doctor import run
        case "forget":
            from mesh_inspect.commands.forget import run
        case "keygen":
            from mesh_inspect.commands.keygen import run
        case "keys":
            from mesh_inspect.commands.keys import run
        case "match":
            from mesh_inspect.commands.match import run
        case "wait":
            from mesh_inspect.commands.wait import run
        case _:
            from mesh_inspect.commands.peers import run
    return run(options, means)


def _parsed(argv: Sequence[str] | None) -> Arguments:
    """The command line. Options of all commands may also stand before the command."""
    parser = _parser()
    for name in ("output", "seed", "mesh", "model", "timeout"):
        _OPTIONS[name](parser, None)
    chosen = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers: dict[str, _InspectParser] = {}
    for name, command in _COMMANDS.items():
        made = parsers[name] = chosen.add_parser(
            name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.usage_status = command.usage
        for option in sorted(command.options):
            # What stands before the command stays, unless it is said again after it.
            _OPTIONS[option](made, argparse.SUPPRESS)
    _only_some(parsers)
    options, unknown = parser.parse_known_args(argv, namespace=Arguments())
    name = options.command or _DEFAULT
    if unknown:
        parsers[name].error(f"unrecognized arguments: {' '.join(unknown)}")
    for option in ("output", "seed", "mesh", "model", "timeout"):
        if getattr(options, option) is not None and option not in _COMMANDS[name].options:
            parsers[name].error(f"{name} takes no --{option}")
    if name == "match" and (options.like is None) == (options.model_and_flags is None):
        parsers[name].error("match takes a MODEL with vLLM's flags, or --like MEMBER")
    if options.output == "wide" and name != "peers":
        parsers[name].error(f"{name} prints a text or json")
    return options


def _only_some(parsers: Mapping[str, argparse.ArgumentParser]) -> None:
    """Arguments that one command takes and no other."""
    parsers["forget"].add_argument(
        "member", metavar="MEMBER", help="HOST:PORT, as `mesh-inspect -o wide` shows it"
    )
    parsers["match"].add_argument(
        "--like",
        metavar="MEMBER",
        help="a worker that needs what this member has: HOST:PORT, as `-o wide` shows it",
    )
    asked = parsers["match"].add_argument(
        "model_and_flags",
        nargs=argparse.PARSER,
        metavar="MODEL [vLLM flag ...]",
        help="what would follow `vllm serve`; all that stands behind MODEL is vLLM's",
    )
    asked.required = False
    parsers["wait"].add_argument(
        "--for",
        dest="awaited",
        choices=("ready", "alive"),
        default="ready",
        help="ready: may be asked for weights (default); alive: is there",
    )
    parsers["wait"].add_argument(
        "--count",
        type=_count,
        default=1,
        metavar="N",
        help="how many members (default: 1)",
    )
    parsers["doctor"].add_argument(
        "--no-transfer",
        action="store_true",
        help="ask no member for a chunk of its weights",
    )


def _parser() -> _InspectParser:
    parser = _InspectParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation that works today would change its meaning with the next option.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _output(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "wide", "json"),
        default=default,
        help="table (default); wide: more columns, nothing folded (peers); json: one document",
    )


def _seed(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--seed",
        action="append",
        metavar="HOST[:PORT]",
        default=default,
        help="ask only this member (repeatable; takes every form of MESH_SEEDS)",
    )


def _mesh(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--mesh",
        metavar="NAME",
        default=default,
        help="name of the mesh (default: NETLOADER_MESH_NAME, 'default')",
    )


def _model(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        default=default,
        help="only holdings of this model; * and ? match anything",
    )


def _timeout(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        default=default,
        help=(
            f"how long to wait for an answer (default: {DEFAULT_TIMEOUT_S:g}; "
            f"wait: {WAIT_TIMEOUT_S:g}; doctor, as a whole: {DOCTOR_TIMEOUT_S:g})"
        ),
    )


_OPTIONS: Final[Mapping[str, Callable[[argparse.ArgumentParser, object], None]]] = {
    "output": _output,
    "seed": _seed,
    "mesh": _mesh,
    "model": _model,
    "timeout": _timeout,
}


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 to 1000000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_TIMEOUT_S:  # also refuses nan
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds above 0 and at most {MAX_TIMEOUT_S:g}"
        )
    return value
