"""The command line of the simulated data plane: `python -m netsim fanout`, `... coldstart`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mesh_inspect.recording.errors import RecordingError
from netsim.dataplane.fanout import FanoutResult, FanoutStuck, play
from netsim.dataplane.options import CHUNKS, POLICIES, Churn, FanoutOptions

COMMANDS: Final = ("fanout", "coldstart")

_RATE: Final = re.compile(r"([0-9]{1,6})([kmg])bit")
_SIZE: Final = re.compile(r"([0-9]{1,6})([kMGT]?)B")
_BITS: Final = {"k": 10**3, "m": 10**6, "g": 10**9}
_BYTES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main(argv: Sequence[str]) -> int:
    """Exit status 0, 1 if a run did not end, or 2 for a file that cannot be written. A wrong
    argument raises SystemExit with 2."""
    arguments = _parser().parse_args(argv)
    options = _options(arguments)
    policies = arguments.policy or (POLICIES if arguments.record is None else ("swarm",))
    if arguments.record is not None and len(policies) > 1:
        print("netsim: --record takes one --policy", file=sys.stderr)
        return 2
    try:
        results = {
            policy: play(replace(options, policy=policy), arguments.record) for policy in policies
        }
    except (RecordingError, OSError) as error:
        print(f"netsim: {error}", file=sys.stderr)
        return 2
    except FanoutStuck as error:
        print(f"netsim: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({policy: result.plain() for policy, result in results.items()}))
    else:
        print("\n".join(_readable(policy, result) for policy, result in results.items()))
    return 0


def _options(arguments: argparse.Namespace) -> FanoutOptions:
    cold = arguments.command == "coldstart"
    nbytes, rate = arguments.nbytes, arguments.rate
    churn = None
    if arguments.churn:
        churn = Churn(nbytes / rate / 4, arguments.churn)
    return FanoutOptions(
        replicas=arguments.replicas,
        rate=rate,
        nbytes=nbytes,
        seed=arguments.seed,
        chunk_bytes=arguments.chunk_bytes,
        placement=arguments.placement,
        rates=dict(arguments.host_rate),
        has_source=not cold,
        storage_rate=(arguments.storage_rate or rate) if cold else None,
        storage_loaders=arguments.storage_loaders if cold else 1,
        serve_while_reading=not (cold and arguments.whole),
        churn=churn,
        degree=arguments.degree,
        sessions=arguments.sessions,
        gossip_s=arguments.gossip_s,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m netsim",
        description="Replicas that start together, in virtual time. Same options, same run.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fanout = commands.add_parser("fanout", help="one member has the weights, N others want them")
    cold = commands.add_parser("coldstart", help="N members want weights that only storage has")
    cold.add_argument(
        "--storage-rate", type=_rate, metavar="RATE", help="of the shared storage server"
    )
    cold.add_argument("--storage-loaders", type=_count, default=1, metavar="N")
    cold.add_argument(
        "--whole", action="store_true", help="a reader serves nothing until it has read everything"
    )
    defaults = FanoutOptions(1, 1.0, 1)
    for command in (fanout, cold):
        command.add_argument("--replicas", type=_count, default=8, metavar="N")
        command.add_argument("--rate", type=_rate, default="400mbit", help="of each link")
        command.add_argument("--bytes", dest="nbytes", type=_size, default="100MB", metavar="B")
        command.add_argument(
            "--chunk-bytes",
            type=_size,
            default=0,
            metavar="B",
            help=f"default: a {CHUNKS}th of the weights",
        )
        command.add_argument(
            "--policy", action="append", choices=POLICIES, help="default: all three"
        )
        command.add_argument(
            "--host-rate",
            type=_host_rate,
            action="append",
            default=[],
            metavar="HOST=RATE",
            help="another rate for a host: 0 has the source, 1 the first replica",
        )
        command.add_argument(
            "--placement",
            type=_placement,
            default=(),
            metavar="N,N,...",
            help="replicas on the first hosts; the rest have a host of their own",
        )
        command.add_argument(
            "--churn",
            type=_count,
            default=0,
            metavar="K",
            help="K times a replica is killed and replaced, one in each quarter of bytes / rate",
        )
        command.add_argument("--degree", type=_count, default=defaults.degree, metavar="N")
        command.add_argument("--sessions", type=_count, default=defaults.sessions, metavar="N")
        command.add_argument(
            "--gossip",
            dest="gossip_s",
            type=float,
            default=defaults.gossip_s,
            metavar="S",
            help="seconds until the others know of a replica",
        )
        command.add_argument("--seed", type=int, default=1)
        command.add_argument(
            "--record",
            type=Path,
            metavar="FILE",
            help="write the run (by default of a swarm) for `mesh-inspect web --replay FILE`",
        )
        command.add_argument("--json", action="store_true", help="one line of JSON")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _rate(text: str) -> float:
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate like 400mbit or 1gbit")
    return int(match[1]) * _BITS[match[2]] / 8


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 100MB")
    return int(match[1]) * _BYTES[match[2]]


def _host_rate(text: str) -> tuple[int, float]:
    host, _, rate = text.partition("=")
    if not host.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not like 3=100mbit")
    return int(host), _rate(rate)


def _placement(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _readable(policy: str, result: FanoutResult) -> str:
    first, last = min(result.per_replica_s), max(result.per_replica_s)
    return (
        f"{policy:9} makespan {result.makespan_s:.3f} s = {result.ratio:.3f} x bytes / rate; "
        f"replicas {first:.3f} to {last:.3f} s; "
        f"sent by the first source {result.source_bytes / 1e6:.0f} MB, "
        f"read from storage {result.storage_bytes / 1e6:.0f} MB; "
        f"control messages {result.control_messages} ({result.control_bytes / 1e3:.0f} kB)"
    )
