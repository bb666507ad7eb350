"""The house: which room stands on which, and what a room may know. `test_layers.py` holds it.

A module's room is the longest entry that its name begins with.
"""

from __future__ import annotations

from typing import Final

LAYERS: Final[tuple[tuple[str, ...], ...]] = (
    ("mesh_inspect", "netbench", "netsim"),
    ("mesh_inspect.recording",),
    ("netloader.engine",),
    ("netloader.worker",),
    ("netloader.metrics",),
    ("netloader.config",),
    ("netloader.replica", "netloader.source"),
    ("netloader.upstream",),
    ("netloader.discovery",),
    ("netloader.protocol",),
    ("netloader.model",),
    ("netloader.weights",),
    ("netloader.transport", "netloader.checkpoint"),
    ("netloader.identity",),
    ("netloader.system",),
    (
        "netloader.bounds",
        "netloader.plain",
        "netloader.program",
        "netloader.telemetry",
        "netloader.terms",
    ),
    ("netloader.errors",),
    ("netloader",),
    ("netmesh",),
    ("netmesh.diagnosis", "netmesh.mesh", "netmesh.observer"),
    ("netmesh.bootstrap", "netmesh.io"),
    ("netmesh.settings",),
    ("netmesh.seeds",),
    ("netmesh.address",),
    ("netmesh.core",),
    ("netmesh.private", "netmesh.program", "netmesh.ports", "netmesh.services"),
    ("netmesh.errors",),
)
"""From the roof down. A room imports itself and what stands on a lower line; rooms of one line do
not know each other."""

FACES: Final[dict[str, dict[str, str]]] = {"netmesh": {"netsim": "netmesh.core"}}
"""Packages of which others import the package itself and nothing inside: what its `__init__` lists
is its interface. Beside each: who may look into which of its rooms. netsim plays the core itself in
virtual time, event by event; a simulator that knew only the face would need sockets and a clock."""

ONLY_IN: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("netloader.engine", "netbench"),
    "vllm_ascend": ("netloader.engine", "netbench"),
    "torch_npu": ("netloader.transport.npu",),
    "torch": (
        "netloader.engine",
        "netloader.worker",
        "netloader.replica",
        "netloader.source",
        "netloader.upstream",
        "netloader.model",
        "netloader.weights",
        "netloader.transport",
        "netloader.system.hugepages",
        "netloader.system.threads",
        "netbench",
    ),
    "starlette": ("mesh_inspect.web",),
    "uvicorn": ("mesh_inspect.web",),
    "prometheus_client": ("netloader.metrics",),
    "textual": ("mesh_inspect.top",),
    "zmq": (
        "netmesh.io",
        "netmesh.mesh",
        "netmesh.observer",
        "netloader.replica",
        "netloader.source",
        "netbench",
    ),
}
"""What is heavy, or knows too much, and the modules that may import it."""

NOWHERE: Final = frozenset({"pickle", "cloudpickle", "marshal", "shelve", "dill"})
"""What runs code that comes with the data."""

PURE: Final = (
    "mesh_inspect.doctor",
    "mesh_inspect.recording.lines",
    "mesh_inspect.recording.track",
    "mesh_inspect.view",
    "mesh_inspect.web.access",
    "mesh_inspect.web.chronicle",
    "mesh_inspect.web.events",
    "mesh_inspect.web.picture",
    "mesh_inspect.web.playhead",
    "netmesh.core",
    "netloader.identity",
    "netloader.source.policy",
    "netloader.discovery",
    "netloader.protocol",
    "netloader.replica.acceptance",
    "netloader.replica.budget",
    "netloader.replica.course",
    "netloader.replica.inflight",
    "netloader.replica.neighbours",
    "netloader.replica.outcome",
    "netloader.replica.pieces",
    "netloader.replica.retry",
    "netloader.replica.schedule",
    "netloader.replica.settings",
    "netloader.upstream.admission",
    "netloader.upstream.messages",
    "netloader.worker.loading.speed",
    "netloader.worker.pace",
)
"""Rooms and modules without I/O, clock, randomness, threads or torch."""

IMPURE: Final = frozenset(
    [
        "asyncio",
        "concurrent",
        "datetime",
        "io",
        "multiprocessing",
        "os",
        "pathlib",
        "pickle",
        "queue",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "torch",
        "uuid",
        "zmq",
    ]
)
