"""A member in a process of its own, driven by lines on stdin; used by the tests of real meshes.

    python -m tests.mesh.worker '{"MESH_NAME": ...}' '{advert}'

Prints one JSON line at once ({"id", "pid"}), then answers each command with one JSON line:
``members`` (id -> status name and advert), ``publish JSON``, ``leave``, ``close``, ``counters``,
``fds``, ``hog`` (keeps the interpreter lock until an empty line comes), ``fork`` (forks a child
that lives as long as this one and uses the mesh), ``lookups`` (how many names it has asked for),
``visit`` (multiprocessing forks a child that joins as a member of its own and ends).
"""

from __future__ import annotations

import ctypes
import json
import logging
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

from netmesh import ClosedError, Mesh, MeshSettings


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    lookups = counted_lookups()
    settings = MeshSettings.load(json.loads(sys.argv[1]), {})
    mesh = Mesh.start(settings, json.loads(sys.argv[2]))
    say({"id": mesh.id, "pid": os.getpid(), "generation": mesh.generation})
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        match command:
            case "members":
                say(
                    {
                        member.id: [member.status.name, member.advert, member.generation]
                        for member in mesh.members()
                    }
                )
            case "publish":
                mesh.publish(json.loads(argument))
                say("ok")
            case "counters":
                say(dict(mesh.counters()))
            case "fds":
                say(len(list(Path("/proc/self/fd").iterdir())))
            case "lookups":
                say(len(lookups))
            case "leave" | "close":
                mesh.leave() if command == "leave" else mesh.close()
                say("ok")
            case "hog":  # holds the interpreter lock: what a long import or kernel build does
                # Until another line comes: a call by PyDLL does not release the lock.
                ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
                say("ok")
            case "fork":
                child = os.fork()
                if child == 0:
                    linger(mesh, Path(argument))
                    os._exit(0)
                say(child)
            case "visit":
                guest = multiprocessing.get_context("fork").Process(target=visit, args=[settings])
                guest.start()
                guest.join()
                say(guest.exitcode)


def visit(settings: MeshSettings) -> None:
    """A forked child's life: it joins by itself, and does not say that it leaves."""
    mesh = Mesh.start(settings, {"guest": True})
    mesh.wait(lambda members: len(members) > 1, 30)


def counted_lookups() -> list[object]:
    """The names that this process asks its system for, from now on, in the order of asking.

    `socket.getaddrinfo` is where any resolver of the system begins.
    """
    asked: list[object] = []
    ask = socket.getaddrinfo

    def counted(host: object, *rest: object, **options: object) -> object:
        asked.append(host)
        return ask(host, *rest, **options)  # type: ignore[arg-type]

    socket.getaddrinfo = counted  # type: ignore[assignment]
    return asked


def linger(mesh: Mesh, done: Path) -> None:
    """A forked child's life: it cannot use the mesh, and outlives its parent until *done*."""
    try:
        mesh.members()
    except ClosedError:
        mesh.close()
        end = time.monotonic() + 30
        while time.monotonic() < end and not done.exists():
            time.sleep(0.02)


def say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
