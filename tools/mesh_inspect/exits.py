"""Exit statuses. Scripts depend on them: never renumber."""

from __future__ import annotations

from enum import IntEnum


class InspectExit(IntEnum):
    """What the exit status of every command but `doctor` means."""

    OK = 0
    FAILED = 1
    NOTHING_MATCHES = 2
    NO_MESH = 3
    USAGE = 64  # EX_USAGE of sysexits.h; argparse's own 2 has another meaning here
    INTERRUPTED = 130


class DoctorExit(IntEnum):
    """What the exit status of `doctor` means."""

    HEALTHY = 0
    FINDINGS = 1
    USAGE = 2
    NOBODY = 3
