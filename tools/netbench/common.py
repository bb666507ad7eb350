"""Values that source and replica of a benchmark share."""

from __future__ import annotations

from netloader.identity.identity import Evidence, Identity, Names
from netloader.replica.settings import PullSettings
from netmesh import SocketSecurity

GENERATION = 1

TIMEOUT_S = 30.0
"""Limit for a transfer without progress."""

SETTINGS = PullSettings(timeout_s=TIMEOUT_S, source_timeout_s=0.0)
"""Settings of every pull. A benchmark does not wait for a source that is lost."""

OPEN = SocketSecurity.from_keys((), "netbench", "netloader")
"""No key."""

IDENTITY = Identity(
    Names("netbench"),
    architecture="Netbench",
    dtype="mixed",
    quantization="",
    content={Evidence.SAMPLE: "0" * 32},
)
