"""A host of a test: workers in a network namespace of their own, without vLLM.

Run as `python -m tests.loader.host_process NAMESPACE HOSTS SETTINGS...`, one worker for each JSON
object of settings. `HOSTS` is a file to use as `/etc/hosts`, or `-`. Each worker loads the toy
model. Prints one JSON line for each, and then serves until its input ends.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import time
from typing import Final

from tests.loader.support import Toy
from tests.loader.worker.loading.whole_load import ROWS, FakeEngine, load_with

from netloader.config import MIN_CHUNK_BYTES, Config
from netloader.worker.position import Position
from netloader.worker.process import Worker

_NEWNET: Final = 0x40000000
_NEWNS: Final = 0x00020000
_PRIVATE: Final = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_BIND: Final = 0x1000


def enter(namespace: str, hosts: str) -> None:
    """Join a network namespace, before there is a second thread."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    found = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    check(libc.setns(found, _NEWNET))
    os.close(found)
    if hosts != "-":
        check(libc.unshare(_NEWNS))
        check(libc.mount(b"none", b"/", None, _PRIVATE, None))
        check(libc.mount(hosts.encode(), b"/etc/hosts", None, _BIND, None))


def main() -> None:
    namespace, hosts, *settings = sys.argv[1:]
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    enter(namespace, hosts)
    workers = []
    for text in settings:
        config = Config.load({"CHUNK_BYTES": MIN_CHUNK_BYTES, **json.loads(text)}, {})
        worker = Worker(config, Position())
        workers.append(worker)
        began = time.monotonic()
        loaded = load_with(worker, FakeEngine(), lambda: Toy(rows=ROWS))
        said = {
            "seconds": time.monotonic() - began,
            "origin": loaded.origin,
            "right": loaded.right,
            "skipped": loaded.skipped,
            "not_served": loaded.reason,
            "endpoint": worker.sources.endpoint("target"),
            "member": worker.membership.name,
            "delivered": loaded.delivered,
        }
        print(json.dumps(said), flush=True)
    sys.stdin.read()
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
