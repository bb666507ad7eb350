"""The command line: `python -m netbench <benchmark>`.

exit status   0     measured and printed
              1     something failed on the way
              64    the command line cannot be used
              77    this machine does not allow what the benchmark needs
              130   interrupted; 143 if by SIGTERM
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Final, NoReturn

import torch

from netbench import carried, coldstart, fanout, kill, pair, serving, sources, starts
from netbench.backends import DEVICES
from netbench.child import ChildError, Json
from netbench.hosts import HostsError
from netbench.render import write
from netbench.rounds import COLD
from netbench.server import EXECUTORS, ServerError
from netbench.shapes import ShapeError
from netbench.task import Task
from netbench.upstream import UpstreamError
from netbench.values import count, placement, rate, several, size
from netloader.errors import NetloaderError
from netloader.weights.manifest import CHUNK_BYTES

PROGRAM: Final = "netbench"


class BenchExit(IntEnum):
    """What the exit status means."""

    OK = 0
    FAILED = 1
    USAGE = 64
    NOT_PERMITTED = 77
    INTERRUPTED = 130
    TERMINATED = 143


class _Stop(BaseException):
    """A signal asked for the end. Everything that was made is removed on the way out."""

    def __init__(self, status: BenchExit) -> None:
        self.status = status
        super().__init__()


class _BenchParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(BenchExit.USAGE, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and return the exit status. A usage error raises SystemExit."""
    options = _parser().parse_args(argv)
    logging.basicConfig(format=f"{PROGRAM}: %(message)s", level=logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    # Transfers do not compute, and a pool of threads would only disturb them.
    torch.set_num_threads(1)
    try:
        write(options.run(options), as_json=options.json)
    except ShapeError as error:
        return _say(BenchExit.USAGE, error)
    except HostsError as error:
        return _say(BenchExit.NOT_PERMITTED, error)
    except (ChildError, NetloaderError, ServerError, UpstreamError, OSError, RuntimeError) as error:
        return _say(BenchExit.FAILED, error)
    except _Stop as stop:
        return stop.status
    return BenchExit.OK


def _stop(number: int, frame: object) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # Tidying up is not interrupted.
    raise _Stop(BenchExit.INTERRUPTED if number == signal.SIGINT else BenchExit.TERMINATED)


def _say(status: BenchExit, error: Exception) -> BenchExit:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _BenchParser(
        prog=PROGRAM,
        description="What a transfer of weights costs, beside plain Gloo and upstream's algorithm, "
        "in one run.\nGB is 1e9 bytes.",
        epilog=__doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="benchmark", required=True)
    _add_pair(commands)
    _add_sources(commands)
    _add_fanout(commands)
    _add_coldstart(commands)
    _add_kill(commands)
    _add_serving(commands)
    _add_starts(commands)
    return parser


def _add_pair(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "pair",
        help="one source, one replica, loopback",
        description="One source and one replica on loopback, beside plain Gloo and upstream.",
        allow_abbrev=False,
    )
    _add_task(command, "llama", None)
    command.add_argument(
        "--cold",
        nargs="?",
        choices=COLD,
        const="prepared",
        metavar="unprepared",
        help="into untouched memory, new each time; unprepared: after a pause in which a virtual "
        "machine's host takes back free memory, which is then not fetched first",
    )
    command.add_argument(
        "--backend",
        choices=DEVICES,
        help="measure this transport beside Gloo instead, into warm memory: staged copies host "
        "memory as Gloo would a device's; hccl needs an NPU",
    )
    _add_common(command, repeat=5)
    command.set_defaults(run=_pair)


def _pair(options: argparse.Namespace) -> Json:
    if options.backend is not None:
        task = replace(_task(options), device=DEVICES[options.backend])
        return carried.measure(task, options.backend, repeat=options.repeat)
    return pair.measure(_task(options), cold=options.cold, repeat=options.repeat)


def _add_sources(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "sources",
        help="several sources, each behind a link of its own (needs root)",
        description="1, 2, 4, ... sources, each on a host of its own (a network namespace) whose "
        "sending is limited, and one replica without limit.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--sources", type=count, default=4, metavar="K", help="most sources (default: 4)"
    )
    command.add_argument(
        "--rate",
        type=rate,
        default="400mbit",
        metavar="RATE",
        help="of each link (default: 400mbit)",
    )
    _add_task(command, "llama", "400MB")
    _add_common(command, repeat=3)
    command.set_defaults(run=_sources)


def _sources(options: argparse.Namespace) -> Json:
    return sources.measure(
        _task(options), sources=options.sources, rate=options.rate, repeat=options.repeat
    )


def _add_fanout(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "fanout",
        help="one source and many replicas at once, each behind a link of its own (needs root)",
        description="One source and N replicas that start in the same moment, each on a host of "
        "its own (a network namespace) whose sending and receiving are limited.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--replicas", type=count, default=8, metavar="N", help="how many (default: 8)"
    )
    command.add_argument(
        "--rate",
        type=rate,
        default="400mbit",
        metavar="RATE",
        help="of each link, in each direction (default: 400mbit)",
    )
    command.add_argument(
        "--policy",
        choices=fanout.POLICIES,
        action="append",
        help="measure this one only; may be repeated (default: all)",
    )
    command.add_argument(
        "--churn",
        type=count,
        default=0,
        metavar="K",
        help="kill K replicas, one each quarter of what a copy takes, and start others in their "
        "places; once for each policy but upstream",
    )
    command.add_argument(
        "--placement",
        type=placement,
        default=(),
        metavar="N,N,...",
        help="replicas on the first hosts; the rest have a host of their own",
    )
    _add_task(command, "llama", "100MB")
    _add_common(command, repeat=1)
    command.set_defaults(run=_fanout)


def _fanout(options: argparse.Namespace) -> Json:
    return fanout.measure(
        _task(options),
        replicas=options.replicas,
        rate=options.rate,
        policies=options.policy or fanout.POLICIES[1 if options.churn else 0 :],
        repeat=options.repeat,
        kills=options.churn,
        placement=options.placement,
    )


def _add_coldstart(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "coldstart",
        help="many workers at once, and only storage has the weights (needs root)",
        description="N workers that start in the same moment, each on a host of its own (a network "
        "namespace) whose sending and receiving are limited. Storage is a server that all share.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--replicas", type=count, default=8, metavar="N", help="how many (default: 8)"
    )
    for option, of in (("--rate", "each worker's link"), ("--storage-rate", "storage's link")):
        command.add_argument(
            option,
            type=rate,
            default="400mbit",
            metavar="RATE",
            help=f"of {of} (default: 400mbit)",
        )
    command.add_argument(
        "--policy",
        choices=coldstart.POLICIES,
        action="append",
        help="measure this one only; may be repeated (default: all)",
    )
    _add_task(command, "llama", "100MB")
    _add_common(command, repeat=1)
    command.set_defaults(run=_coldstart)


def _coldstart(options: argparse.Namespace) -> Json:
    return coldstart.measure(
        _task(options),
        replicas=options.replicas,
        rate=options.rate,
        storage_rate=options.storage_rate,
        policies=options.policy or coldstart.POLICIES,
        repeat=options.repeat,
    )


def _add_kill(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "kill",
        help="a source is killed in the middle of a load",
        description="Source processes on loopback. SIGKILL ends one of them at a random moment of "
        "a load.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--trials", type=count, default=10, metavar="T", help="loads disturbed (default: 10)"
    )
    command.add_argument(
        "--sources", type=several, default=2, metavar="K", help="at least 2 (default: 2)"
    )
    command.add_argument(
        "--seed", type=count, metavar="N", help="draw the victims and moments of that run again"
    )
    _add_task(command, "llama", "512MB")
    _add_json(command)
    command.set_defaults(run=_kill)


def _kill(options: argparse.Namespace) -> Json:
    return kill.measure(
        _task(options), sources=options.sources, trials=options.trials, seed=options.seed
    )


def _add_serving(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "serving",
        help="time between tokens of a server that serves its weights (needs vLLM)",
        description="Time between tokens of real servers: idle, while a replica pulls from them, "
        "and while one pulls below a RATE_LIMIT.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--bytes", type=size, default="100MB", metavar="N", help="of the model (default: 100MB)"
    )
    command.add_argument(
        "--rate-limit",
        type=size,
        default="20MB",
        metavar="N",
        help="bytes per second of the second server (default: 20MB)",
    )
    command.add_argument(
        "--seconds", type=count, default=5, metavar="S", help="of a phase (default: 5)"
    )
    command.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="uni",
        help="vLLM's executor: mp, its default on CPU, keeps the core beside the model busy too; "
        "uni leaves that core free (default: uni)",
    )
    _add_common(command, repeat=12)
    command.set_defaults(run=_serving)


def _serving(options: argparse.Namespace) -> Json:
    return serving.measure(
        nbytes=options.bytes,
        rate_limit=options.rate_limit,
        executor=options.executor,
        seconds=options.seconds,
        repeat=options.repeat,
    )


def _add_starts(commands: argparse._SubParsersAction[_BenchParser]) -> None:
    command = commands.add_parser(
        "starts",
        help="seconds in load_model of vLLM's loader and of Netloader (needs vLLM)",
        description="Seconds in load_model of real servers that start one after the other: with "
        "--load-format auto, with Netloader alone, and with Netloader beside a server of this host "
        "that has the weights. Files are in the page cache, and memory is not prepared.",
        allow_abbrev=False,
    )
    command.add_argument(
        "--bytes", type=size, default="0.9GB", metavar="N", help="of the model (default: 0.9GB)"
    )
    command.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="mp",
        help="vLLM's executor: mp, its default on CPU, binds the loading thread to a core "
        "(default: mp)",
    )
    _add_common(command, repeat=5)
    command.set_defaults(run=_starts)


def _starts(options: argparse.Namespace) -> Json:
    return starts.measure(nbytes=options.bytes, executor=options.executor, repeat=options.repeat)


def _task(options: argparse.Namespace) -> Task:
    task = Task(options.shape, options.bytes, options.chunk_bytes)
    _ = task.rows  # Raises an error before anything starts.
    return task


def _add_task(command: argparse.ArgumentParser, default: str, nbytes: str | None) -> None:
    command.add_argument(
        "--shape",
        default=default,
        metavar="llama|moe|FILE",
        help="171 tensors like a Llama's, experts of 200 KB, or a file with a row "
        "`name dtype shape` per tensor, as in `lm_head.weight bfloat16 32000x4096`; "
        f"default: {default}",
    )
    command.add_argument(
        "--bytes",
        type=size,
        metavar="N",
        default=nbytes,
        help="size of llama or moe, with a suffix like MB or GiB if you like; default: "
        + (nbytes or "1GiB and 1GB"),
    )
    command.add_argument(
        "--chunk-bytes",
        type=size,
        default=CHUNK_BYTES,
        metavar="N",
        help=f"size of a chunk, the unit of requests and digests (default: {CHUNK_BYTES})",
    )


def _add_common(command: argparse.ArgumentParser, *, repeat: int) -> None:
    command.add_argument(
        "--repeat",
        type=count,
        default=repeat,
        metavar="R",
        help=f"repetitions, interleaved (default: {repeat})",
    )
    _add_json(command)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON document, every repetition")
