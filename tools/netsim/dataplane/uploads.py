"""A member's sending side: its sessions' requests, and the flows that serve them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from netsim.dataplane.fluid import Flow, Fluid, SharedLink


@dataclass(slots=True)
class Upload:
    """One session, as its source sees it."""

    replica: str
    links: Sequence[SharedLink]
    """What its bytes cross."""
    arrived: Callable[[int], None]
    """Told each chunk whose bytes have all left."""
    queue: deque[int] = field(default_factory=deque)
    """Chunks that were asked for, oldest first."""
    flow: Flow | None = None
    sent: set[int] = field(default_factory=set)


class Uploads:
    """All sessions in which one member is the source. Each sends one chunk after the other."""

    def __init__(self, fluid: Fluid, sizes: Sequence[int]) -> None:
        self._fluid = fluid
        self._sizes = sizes
        self._uploads: dict[str, Upload] = {}
        self.sent_bytes = 0

    def __len__(self) -> int:
        return len(self._uploads)

    def open(self, upload: Upload) -> None:
        """Begin a session."""
        self._uploads[upload.replica] = upload

    def want(self, replica: str, chunk: int) -> None:
        """A replica with a session asks for a chunk."""
        upload = self._uploads[replica]
        upload.queue.append(chunk)
        if upload.flow is None:
            self._send(upload)

    def close(self, replica: str) -> frozenset[int]:
        """End a session, whatever it still owes. Returns the chunks that were sent."""
        upload = self._uploads.pop(replica, None)
        if upload is None:
            return frozenset()
        if upload.flow is not None:
            self._fluid.stop(upload.flow)
        return frozenset(upload.sent)

    def _send(self, upload: Upload) -> None:
        size = self._sizes[upload.queue[0]]
        upload.flow = self._fluid.start(upload.links, size, lambda: self._sent(upload))

    def _sent(self, upload: Upload) -> None:
        chunk = upload.queue.popleft()
        upload.flow = None
        upload.sent.add(chunk)
        self.sent_bytes += self._sizes[chunk]
        upload.arrived(chunk)
        if upload.queue and upload.flow is None:
            self._send(upload)
