"""What source and replica of a benchmark have agreed on before."""

from __future__ import annotations

from netloader.identity.identity import Evidence, Identity, Names
from netloader.replica.settings import PullSettings
from netmesh import SocketSecurity

GENERATION = 1

TIMEOUT_S = 30.0
"""Of a transfer without progress."""

SETTINGS = PullSettings(timeout_s=TIMEOUT_S, source_timeout_s=0.0)
"""Of every pull: a source that is lost in a benchmark is not waited for."""

OPEN = SocketSecurity.from_keys((), "netbench", "netloader")
"""No key."""

IDENTITY = Identity(
    Names("netbench"),
    architecture="Netbench",
    dtype="mixed",
    quantization="",
    content={Evidence.SAMPLE: "0" * 32},
)
