"""What two ranks leave for each other, and what nobody else can."""

from __future__ import annotations

import hmac
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import HashStore

from netloader.transport import REPLICA, SOURCE, TransportError
from netloader.transport.store import AuthenticatedStore, RecordingStore

SECRET = "5" * 32
LATE_S = 120.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def store(end: socket.socket, rank: int, secret: str = SECRET) -> AuthenticatedStore:
    return AuthenticatedStore(end, secret, rank, soon())


def soon() -> float:
    return time.monotonic() + LATE_S


Ends = tuple[socket.socket, socket.socket]


def test_each_end_reads_what_the_other_left_and_its_own(ends: Ends) -> None:
    source, replica = store(ends[0], SOURCE), store(ends[1], REPLICA)
    source.set("address", b"\0\xff")
    source.set("name", "text")
    replica.set("address of the replica", "a")
    assert not replica.check(["address"])
    replica.wait(["name", "address"], timedelta(seconds=1))
    assert replica.check(["address", "name"])
    assert (replica.get("address"), replica.get("name")) == (b"\0\xff", b"text")
    assert source.get("address") == b"\0\xff"
    assert source.get("address of the replica") == b"a"


def test_what_comes_after_the_deadline_is_not_taken(ends: Ends) -> None:
    store(ends[0], REPLICA).set("key", "value")
    late = store(ends[1], SOURCE)
    with pytest.raises(TransportError, match="silent"):
        late.receive(time.monotonic() - 1)
    late.receive(soon())
    assert late.get("key") == b"value"


def test_nothing_is_left_after_the_deadline(ends: Ends) -> None:
    with pytest.raises(TransportError, match="does not read"):
        AuthenticatedStore(ends[0], SECRET, SOURCE, time.monotonic() - 1).set("key", "value")


def test_what_an_end_says_cannot_be_played_back_to_it(ends: Ends) -> None:
    """Nor can the replica's proof be used twice: the rank and the secret are of one session."""
    near, far = ends
    source = store(near, SOURCE)
    source.set("key", b"value")
    far.sendall(far.recv(4096))
    with pytest.raises(TransportError, match="without the session's secret"):
        source.receive(soon())


def test_an_entry_by_another_secret_does_not_count(ends: Ends) -> None:
    store(ends[0], REPLICA, "6" * 32).set("key", "value")
    source = store(ends[1], SOURCE)
    with pytest.raises(TransportError, match="without the session's secret"):
        source.get("key")
    assert not source.check(["key"])


def test_an_endless_entry_is_refused_before_it_is_read(ends: Ends) -> None:
    ends[1].sendall(b"\xff\xff\xff\xff" + b"\0" * 32)
    with pytest.raises(TransportError, match="too much"):
        store(ends[0], SOURCE).receive(soon())


def test_endless_entries_are_refused(ends: Ends) -> None:
    replica, source = store(ends[0], REPLICA), store(ends[1], SOURCE)
    for number in range(64):
        replica.set(f"key {number}", "value")
        source.receive(soon())
    replica.set("one more", "value")
    with pytest.raises(TransportError, match="too much"):
        source.receive(soon())


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\2\xff\xfe", b"\xff\xffkey"])
def test_a_malformed_entry_of_the_peer_is_an_error_or_waited_for_by_nobody(
    ends: Ends, body: bytes
) -> None:
    mac = hmac.digest(SECRET.encode(), bytes([REPLICA]) + body, "sha256")
    ends[1].sendall(len(body).to_bytes(4, "big") + mac + body)
    source = store(ends[0], SOURCE)
    if body != b"\0\2\xff\xfe":
        with pytest.raises(TransportError):
            source.receive(soon())
    else:
        source.receive(soon())
        assert not source.check(["", "\xff\xfe"])


@pytest.mark.parametrize("said", [0, 20, 40])
def test_a_peer_that_leaves_is_missed_at_once(ends: Ends, said: int) -> None:
    near, far = ends
    store(far, REPLICA).set("key", "value")
    entry = near.recv(4096)
    far.close()
    one, other = socket.socketpair()
    with one, other:
        other.sendall(entry[:said])
        other.close()
        with pytest.raises(TransportError, match="left the rendezvous"):
            store(one, SOURCE).get("key")


def test_a_recorded_store_is_otherwise_as_it_was() -> None:
    inner = HashStore()
    recording = RecordingStore(inner)
    recording.set("mine", "a")
    inner.set("theirs", "b")
    recording.wait(["theirs"], timedelta(seconds=1))
    assert recording.check(["mine", "theirs"])
    assert not recording.check(["nobody's"])
    assert (recording.get("theirs"), recording.get("mine")) == (b"b", b"a")
    assert inner.get("mine") == b"a"
    assert (recording.mine, recording.theirs) == ([b"a"], [b"b"])
