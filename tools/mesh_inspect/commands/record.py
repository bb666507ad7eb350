"""`mesh-inspect record FILE`: what a mesh does, for later."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import Seconds, ValueType, asks_mesh, subcommand
from mesh_inspect.recording.errors import RecordingError
from mesh_inspect.recording.lines import RecordingHead
from mesh_inspect.recording.recorder import RecorderMeans, record
from mesh_inspect.recording.signals import StopSignals
from mesh_inspect.recording.writer import RecordingFile, RecordingFull
from mesh_inspect.view.words import human_bytes
from mesh_inspect.watching import INTERVAL_S, Lookout
from netloader import __version__

_SIZE: Final = re.compile(r"([0-9]{1,12})([kMGT]?)B?")
_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MAX_BYTES: Final = "1GB"


class ByteCount(ValueType):
    """A number of bytes, as `100MB`."""

    name = "bytes"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        found = _SIZE.fullmatch(str(value))
        if found is None or int(found[1]) == 0:
            self.fail(f"{str(value)!r} is not a size such as 100MB", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@subcommand(
    "record mesh.rec",
    "record night.rec --for 28800 --interval 2",
    "record short.rec --max-bytes 20MB --seed 10.0.0.1",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--interval",
    "interval_s",
    type=Seconds(),
    default=INTERVAL_S,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks. Each costs one member one answer.",
)
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Default: until Ctrl-C or SIGTERM.",
)
@click.option(
    "--max-bytes",
    type=ByteCount(),
    default=MAX_BYTES,
    show_default=True,
    metavar="SIZE",
    help="The recording ends before FILE is larger.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@asks_mesh
def command(
    inquiry: Inquiry,
    file: Path,
    interval_s: float,
    for_s: float | None,
    max_bytes: int,
    force: bool,
) -> InspectExit:
    """Write what a mesh does to FILE, for `mesh-inspect web --replay FILE` and for bug reports.

    FILE has everything that the members publish, so only its owner may read it. A key is never in
    it. When nobody answers, that is recorded as well.
    """
    means = inquiry.means
    head = RecordingHead(mesh=inquiry.settings.name, at=means.wall_s(), program=__version__)
    try:
        with (
            inquiry.observer(quiet=True) as observer,
            StopSignals() as stop,
            RecordingFile(file, head, max_bytes, force=force) as written,
        ):
            lookout = Lookout(
                observer,
                timeout_s=inquiry.timeout_s,
                monotonic=means.monotonic,
                wall_s=means.wall_s,
            )
            say(f"recording mesh {head.mesh!r} in {file}; Ctrl-C ends it")
            world = RecorderMeans(lookout.look, means.monotonic, means.wall_s, stop.within)
            whole = record(world, written, interval_s=interval_s, for_s=for_s)
    except RecordingFull:
        say(f"--max-bytes {max_bytes} leaves no room for a recording")
        return InspectExit.USAGE
    except (RecordingError, OSError) as error:
        say(str(error))
        return InspectExit.FAILED
    print(f"{file}: {human_bytes(written.nbytes)}")
    if not whole:
        say(f"{file} is full: --max-bytes {max_bytes}")
        return InspectExit.FAILED
    return InspectExit.OK
