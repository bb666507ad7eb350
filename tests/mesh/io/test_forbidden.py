"""Options that abort the process, and serialisers that run what they read, never enter the tree."""

import re
from pathlib import Path

import netmesh

SOURCES = sorted(Path(netmesh.__file__).parent.rglob("*.py"))
FORBIDDEN = re.compile(
    r"\bHEARTBEAT_\w+|\bCONNECT_RID\b|\bCONNECT_ROUTING_ID\b|\bROUTER_HANDOVER\b"
    r"|\bzmq\.ROUTING_ID\b|\bzmq\.IDENTITY\b|\brecv_pyobj\b|\bsend_pyobj\b"
    r"|\bimport (pickle|marshal|shelve)\b|\bfrom (pickle|marshal|shelve)\b"
    r"|Context\.instance\(|zmq\.asyncio|\beval\(|\bexec\("
)


def test_nothing_forbidden_in_the_sources() -> None:
    assert len(SOURCES) > 20
    found = {
        f"{path.name}: {match[0]}"
        for path in SOURCES
        for match in FORBIDDEN.finditer(path.read_text())
    }
    assert not found


def test_the_scan_finds_what_it_looks_for() -> None:
    assert FORBIDDEN.search("socket.setsockopt(zmq.HEARTBEAT_IVL, 1)")
    assert FORBIDDEN.search("import pickle")
