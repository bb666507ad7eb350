"""The command `mesh-inspect`: look, print (or bury a dead member), and report an exit status.

exit status   0   the answer was printed
              2   a mesh answered, but nothing in it matches
              3   no mesh answered
             64   the command line or a setting cannot be used
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, NoReturn, Protocol

from mesh_inspect.render import escape, to_json, write_table
from mesh_inspect.rows import rows_of
from netloader import __version__
from netloader.program import PROGRAM as LOADER
from netmesh import (
    Member,
    MemberId,
    MeshError,
    MeshSettings,
    NoMeshError,
    SettingsError,
    Status,
    count_keys,
    forget,
    generate_key,
    observe,
)

PROGRAM: Final = "mesh-inspect"
DEFAULT_TIMEOUT_S: Final = 3.0
MAX_TIMEOUT_S: Final = 3600.0


class InspectExit(IntEnum):
    """What the exit status means. Scripts depend on it: never renumber."""

    OK = 0
    FAILED = 1
    NOTHING_MATCHES = 2
    NO_MESH = 3
    USAGE = 64  # EX_USAGE of sysexits.h; argparse's own 2 has another meaning here
    INTERRUPTED = 130


_DESCRIPTION = """\
Show the members of a Netloader mesh and the weights they hold, without becoming a member.

commands:
  peers    print the members (the default)
  forget MEMBER
           tell the mesh that a dead member (HOST:PORT) will not come back
  keys     count the members that serve by each cluster key, by its fingerprint
  keygen   print a new cluster key, for MESH_KEY_FILE:
           (umask 077; mesh-inspect keygen > mesh.key)
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
"""


class Look(Protocol):
    """Finds the members, as `netmesh.observe` does."""

    def __call__(
        self, settings: MeshSettings, timeout_s: float, *, seeds_only: bool
    ) -> tuple[Member, ...]: ...


class Bury(Protocol):
    """Tells a mesh that a member is gone for good, as `netmesh.forget` does."""

    def __call__(
        self, settings: MeshSettings, member: MemberId, timeout_s: float, *, seeds_only: bool
    ) -> Status | None: ...


class _InspectParser(argparse.ArgumentParser):
    """Exits with 64 where argparse would exit with 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(InspectExit.USAGE, f"{self.prog}: {escape(message)}\n")


class _Arguments(argparse.Namespace):
    """The command line, with types. Options of `peers` are None if they were not given."""

    command: str
    member: str | None
    output: str | None
    seed: list[str] | None
    mesh: str | None
    model: str | None
    timeout: float | None

    @property
    def of_peers(self) -> tuple[object, ...]:
        return (self.output, self.seed, self.mesh, self.model, self.timeout)


def main(argv: Sequence[str] | None = None, look: Look = observe, bury: Bury = forget) -> int:
    """Run the command and return its exit status. A usage error raises SystemExit."""
    parser = _parser()
    options = parser.parse_args(argv, namespace=_Arguments())
    # A terminal that cannot show a name's characters must not crash the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if options.command == "keygen":
            if any(value is not None for value in (*options.of_peers, options.member)):
                parser.error("keygen takes no options")
            print(generate_key())
            status = InspectExit.OK
        elif options.command == "forget":
            if options.member is None:
                parser.error("forget needs a member: HOST:PORT, as `mesh-inspect -o wide` shows it")
            if options.output is not None or options.model is not None:
                parser.error("forget takes --seed, --mesh and --timeout only")
            status = _forget(MemberId(options.member), options, bury)
        elif options.command == "keys":
            if options.member is not None or options.output or options.model is not None:
                parser.error("keys takes --seed, --mesh and --timeout only")
            status = _keys(options, look)
        else:
            if options.member is not None:
                parser.error(f"peers takes no member: {options.member!r}")
            status = _peers(options, look)
        sys.stdout.flush()
    except SettingsError as error:
        _say(_in_words_of_the_command(error, options))
        return InspectExit.USAGE
    except MeshError as error:
        _say(str(error))
        return InspectExit.FAILED
    except BrokenPipeError:
        # The reader (`| head`) has enough. Nothing must be flushed to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InspectExit.OK
    except KeyboardInterrupt:
        return InspectExit.INTERRUPTED
    return status


def _forget(member: MemberId, options: _Arguments, bury: Bury) -> InspectExit:
    settings = _settings(options)
    timeout_s = DEFAULT_TIMEOUT_S if options.timeout is None else options.timeout
    seeds_only = options.seed is not None
    try:
        with _log_to_stderr():
            status = bury(settings, member, timeout_s, seeds_only=seeds_only)
    except NoMeshError as error:
        _say(_nobody_answered(error, settings, seeds_only=seeds_only))
        return InspectExit.NO_MESH
    if status is Status.LEFT:
        print(escape(f"{member} is forgotten"))
        return InspectExit.OK
    if status is None:
        _say(f"mesh {settings.name!r} knows no member {member}")
        return InspectExit.NOTHING_MATCHES
    _say(f"{member} is {status.name.lower()}: only a dead member can be forgotten")
    return InspectExit.NOTHING_MATCHES


def _keys(options: _Arguments, look: Look) -> InspectExit:
    settings = _settings(options)
    timeout_s = DEFAULT_TIMEOUT_S if options.timeout is None else options.timeout
    seeds_only = options.seed is not None
    try:
        with _log_to_stderr():
            members = look(settings, timeout_s, seeds_only=seeds_only)
    except NoMeshError as error:
        _say(_nobody_answered(error, settings, seeds_only=seeds_only))
        return InspectExit.NO_MESH
    gone = (Status.DEAD, Status.LEFT)
    asked = [member.id for member in members if member.status not in gone]
    for number, count in enumerate(count_keys(settings, asked, timeout_s), start=1):
        if count.fingerprint is not None:
            print(f"key {number} ({count.fingerprint}): {len(count.members)} members serve by it")
        elif count.members:
            print(f"none of these, or no answer: {len(count.members)} members")
            for member in count.members:
                print(f"  {escape(member)}")
    return InspectExit.OK


def _peers(options: _Arguments, look: Look) -> InspectExit:
    settings = _settings(options)
    timeout_s = DEFAULT_TIMEOUT_S if options.timeout is None else options.timeout
    # A user who names a seed wants the answer of that seed, above all when a mesh is split. A
    # member on this host would often answer first.
    seeds_only = options.seed is not None
    try:
        with _log_to_stderr():
            members = look(settings, timeout_s, seeds_only=seeds_only)
    except NoMeshError as error:
        _say(_nobody_answered(error, settings, seeds_only=seeds_only))
        return InspectExit.NO_MESH

    rows = rows_of(members, options.model)
    if options.output == "json":
        print(to_json(rows, mesh=settings.name))
    elif rows:
        write_table(
            rows,
            sys.stdout,
            mesh=settings.name,
            wide=options.output == "wide",
            terminal=sys.stdout.isatty(),
        )
    if rows:
        return InspectExit.OK
    if options.model is None:
        _say(f"mesh {settings.name!r} answered, but has no members")
    else:
        _say(f"no member of mesh {settings.name!r} holds a model that matches {options.model!r}")
    return InspectExit.NOTHING_MATCHES


def _settings(options: _Arguments) -> MeshSettings:
    """A worker's settings, overridden by the command line."""
    chosen: dict[str, object] = {}
    if options.mesh is not None:
        chosen["MESH_NAME"] = options.mesh
    if options.seed is not None:
        chosen["MESH_SEEDS"] = tuple(options.seed)
    return MeshSettings.load(chosen, program=LOADER)


def _in_words_of_the_command(error: SettingsError, options: _Arguments) -> str:
    """The error, which names the option if the value came from one."""
    key = error.key
    if key in ("MESH_SEEDS", "seed", "address") and options.seed is not None:
        key = "--seed"
    elif key == "MESH_NAME" and options.mesh is not None:
        key = "--mesh"
    return str(SettingsError(key, error.value, error.allowed))


def _nobody_answered(error: NoMeshError, settings: MeshSettings, *, seeds_only: bool) -> str:
    """What was tried and what to do, one item a line."""
    alone = settings.key is None and settings.key_file is None and not settings.insecure
    places = [f"seed {seed}" for seed in settings.seeds]
    if not seeds_only:
        if not places and not alone:
            places.append("the scheduler's environment")
        places.append(f"same-host directory {settings.host_directory()}")
    lines = [
        f"no member of mesh {error.mesh!r} answered within {error.timeout_s:g} s",
        f"  looked in: {', '.join(places)}",
        f"  asked: {', '.join(error.tried) or 'nobody, no address was found there'}",
    ]
    if error.__cause__ is not None:
        lines.append(f"  likely reason: {error.__cause__}")
    if alone:
        lines.append("  without a cluster key (NETLOADER_MESH_KEY_FILE) only this host is searched")
    lines.append(
        "  what to do: start a worker with `--load-format netloader`, name a member with "
        "--seed HOST[:PORT], or check that --mesh and the cluster key are those of the workers"
    )
    return "\n".join(lines)


def _say(message: str) -> None:
    """Print to stderr with every line escaped, because others may have written parts of it."""
    lines = (escape(line) for line in message.split("\n"))
    print(f"{PROGRAM}:", "\n".join(lines), file=sys.stderr)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Show the mesh's warnings (a seed that does not resolve, an unsafe directory) on stderr."""
    logger, handler = logging.getLogger("netmesh"), _Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _parser() -> argparse.ArgumentParser:
    parser = _InspectParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation that works today would change its meaning with the next option.
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("peers", "forget", "keys", "keygen"),
        default="peers",
        help="default: peers",
    )
    parser.add_argument("member", nargs="?", metavar="MEMBER", help="of `forget`: HOST:PORT")
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "wide", "json"),
        help="table (default); wide: more columns, nothing folded; json: one document",
    )
    parser.add_argument(
        "--seed",
        action="append",
        metavar="HOST[:PORT]",
        help="ask only this member (repeatable; takes every form of MESH_SEEDS)",
    )
    parser.add_argument(
        "--mesh", metavar="NAME", help="name of the mesh (default: NETLOADER_MESH_NAME, 'default')"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="only holdings of this model; * and ? match anything"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help=f"how long to wait for an answer (default: {DEFAULT_TIMEOUT_S:g})",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


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
