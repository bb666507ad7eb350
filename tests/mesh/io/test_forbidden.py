"""Options that abort the process, and serialisers that run what they read, never enter the tree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path for part in ("mesh", "loader", "tools") for path in (ROOT / part).rglob("*.py")
)
FORBIDDEN = re.compile(
    # pyzmq takes options as constants and, in small letters, as attributes of a socket.
    r"(?i:\bHEARTBEAT_(IVL|TTL|TIMEOUT)\b|\bCONNECT_RID\b|\bCONNECT_ROUTING_ID\b"
    r"|\bROUTER_HANDOVER\b|\bROUTER_NOTIFY\b|\b(HELLO|DISCONNECT|HICCUP)_MSG\b)"
    r"|\bzmq\.ROUTING_ID\b|\bzmq\.IDENTITY\b|\.(identity|routing_id)\s*=[^=]\s*b"
    r"|\brecv_pyobj\b|\bsend_pyobj\b"
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
    assert FORBIDDEN.search("socket.heartbeat_ivl = 1")
    assert FORBIDDEN.search('socket.identity = b"me"')
    assert FORBIDDEN.search("import pickle")


def test_the_scan_covers_every_part_that_has_sockets() -> None:
    users = {path.relative_to(ROOT).parts[1] for path in SOURCES if "zmq" in path.read_text()}
    assert users >= {"netmesh", "netloader"}
