"""The command line of the simulator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from mesh_inspect.recording.errors import RecordingError
from netsim import rerun
from netsim.dataplane import cli as dataplane
from netsim.film import filmed
from netsim.options import RunOptions
from netsim.protocols import PROTOCOLS
from netsim.scenarios import SCENARIOS, run
from netsim.trace import Recorder, Trace, TraceMismatch, Verifier, parameters_of


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if the run kept all rules, 1 if not, 2 for wrong arguments."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in dataplane.COMMANDS:
        return dataplane.main(given)
    if given and given[0] == rerun.COMMAND:
        return rerun.main(given[1:])
    parser = _parser()
    arguments = parser.parse_args(given)
    try:
        if arguments.against is not None:
            options = RunOptions(**parameters_of(arguments.against))  # type: ignore[arg-type]
            trace: Trace = Verifier(arguments.against)
        elif arguments.scenario is None:
            parser.error("a scenario is needed, or --against FILE")
        else:
            names = {field.name for field in fields(RunOptions)}
            options = RunOptions(**{k: v for k, v in vars(arguments).items() if k in names})
            trace = Recorder(arguments.trace, asdict(options)) if arguments.trace else Trace()
        with trace, filmed(arguments.record) as film:
            report = run(options, trace, film)
    except TraceMismatch as error:
        print(f"the run differs: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, RecordingError) as error:
        print(f"netsim: {error}", file=sys.stderr)
        return 2
    print(report.line() if arguments.json else report.readable())
    return 1 if report.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m netsim",
        description="Play one scenario in virtual time. Same options, same run. "
        "`fanout` and `coldstart` play transfers of weights, `replay` what a recording of a mesh "
        "tells of members that came and went; each has its own --help.",
    )
    parser.add_argument("scenario", nargs="?", choices=list(SCENARIOS))
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="netmesh")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--duration", dest="duration_s", type=float, help="seconds of the fault")
    parser.add_argument("--faults", type=int, help="members that the fault hits")
    parser.add_argument("--loss", type=float, help="share of messages lost, 0..1")
    parser.add_argument("--advert-bytes", type=int, default=600)
    parser.add_argument("--workers-per-host", type=int, default=8)
    parser.add_argument("--settle", dest="settle_s", type=float, default=5.0)
    parser.add_argument(
        "--spell",
        dest="spell_s",
        type=float,
        default=16.0,
        help="slow: seconds a slow member stands still",
    )
    parser.add_argument(
        "--pause", dest="pause_s", type=float, default=1.0, help="slow: seconds it works in between"
    )
    parser.add_argument(
        "--slowness",
        choices=["own", "io", "whole"],
        default="own",
        help="slow: what stands still; own: the same as in a real program of that kind",
    )
    parser.add_argument(
        "--check", dest="checked", action="store_true", help="check invariants after every event"
    )
    parser.add_argument(
        "--through-wire", action="store_true", help="encode and decode every message"
    )
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--trace", type=Path, metavar="FILE", help="write every event to FILE")
    files.add_argument(
        "--against", type=Path, metavar="FILE", help="run a trace's options again and compare"
    )
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what a member sees, for `mesh-inspect web --replay FILE`",
    )
    return parser
