"""What source and replica of a benchmark have agreed on before."""

from __future__ import annotations

from netloader.identity import Evidence, Identity, Parallel
from netmesh import SocketSecurity

GENERATION = 1

TIMEOUT_S = 30.0
"""Of a transfer without progress."""

OPEN = SocketSecurity.from_keys((), "netbench", "netloader")
"""No key."""

IDENTITY = Identity(
    model="netbench",
    architecture="Netbench",
    dtype="mixed",
    quantization="",
    quantization_config="",
    config="",
    parallel=Parallel(),
    vllm_version="",
    content={Evidence.SAMPLE: "0" * 32},
)
