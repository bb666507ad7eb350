"""What Kubernetes writes into a pod's environment, where a program looks for its settings.

A pod gets variables for each Service of its namespace that has a cluster IP. For the Service
`crew-mesh` one of them is `CREW_MESH_PORT=tcp://10.96.0.1:17946`: the name of a setting, with a
value that is none. (Kubernetes documentation, "Service", "Environment variables".)
"""

from __future__ import annotations

import re
from typing import Final

_SUFFIX: Final = "_PORT"

_VALUE: Final = re.compile(r"(tcp|udp|sctp)://\S+:[0-9]+")
"""The protocols that a Service can have."""


def is_of_service(name: str, value: str) -> bool:
    """Whether Kubernetes wrote this variable for a Service: no operator writes a port like this."""
    return name.endswith(_SUFFIX) and _VALUE.fullmatch(value) is not None
