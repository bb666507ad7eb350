"""The ports that this process listens on: one that was set, one of a range, or any free one."""

from __future__ import annotations

import errno
import random
import re
import socket
from dataclasses import dataclass
from typing import Final, Self

LOWEST: Final = 1024
"""Below, ports need a privilege."""

HIGHEST: Final = 65_535


@dataclass(frozen=True, slots=True)
class PortRange:
    """All that a firewall lets through, both ends included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `20000-20100`. Raises `ValueError`."""
        match = re.fullmatch(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*", text)
        if match is None or not LOWEST <= int(match[1]) <= int(match[2]) <= HIGHEST:
            raise ValueError(f"use a range of ports in {LOWEST}..{HIGHEST}, such as 20000-20100")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last

    @property
    def all(self) -> range:
        return range(self.first, self.last + 1)


def listen(host: str, port: int | None, ports: PortRange | None, *, backlog: int) -> socket.socket:
    """A socket that listens on `port` of `host`; without one on a free port of `ports`, or on any.

    Raises `OSError` when the port, or the whole range, is taken, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port is not None or ports is None:
        return socket.create_server((host, port or 0), family=family, backlog=backlog)
    # Several workers of a host share the range: from a random port on, they rarely collide.
    start = random.randrange(len(ports.all))
    for number in (*ports.all[start:], *ports.all[:start]):
        try:
            return socket.create_server((host, number), family=family, backlog=backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"all ports of PORT_RANGE {ports} are taken: widen it")
