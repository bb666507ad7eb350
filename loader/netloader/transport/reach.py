"""Whether a failed connect tells of the network on the way rather than of the peer."""

from __future__ import annotations

import errno
from typing import Final

_ON_THE_WAY: Final = frozenset(
    {
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EACCES,
        errno.EPERM,
    }
)
"""No answer, no route, or a packet filter that says so (Linux maps ICMP's answers to these)."""


def unanswered(error: OSError) -> bool:
    """Whether a connect failed on the way. A peer that refuses is there, and its network too."""
    return isinstance(error, TimeoutError) or error.errno in _ON_THE_WAY


def blocked(port: str, address: str, error: OSError) -> str:
    """What an operator is told of a port that does not answer; `port` is its kind."""
    return (
        f"its {port} port {address} does not answer ({error}): open that TCP port between the two "
        "hosts, or the PORT_RANGE that its source has set"
    )
