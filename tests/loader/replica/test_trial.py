"""A trial takes one chunk and leaves the source as it was. What is in the way is told by kind."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.fastest import HANG_S
from tests.loader.replica.played_source import played
from tests.loader.support import (
    OPEN,
    SendLog,
    TamperedBackend,
    calling,
    cut_after,
    identity,
    keys,
    offer_of,
    serving,
    toy_weights,
    until,
    wrong_byte_in,
)

from netloader.discovery.candidate import Candidate
from netloader.identity.identity import Identity
from netloader.replica.trial import Trial, TrialEnd, attempt
from netloader.source.service import Source
from netloader.transport.gloo import GlooBackend
from netloader.transport.tcp import TcpBackend
from netloader.weights.manifest import CHUNK_BYTES, Manifest
from netmesh import SocketSecurity

WEIGHTS = toy_weights(1, rows=40)
BOTH = (TcpBackend(), GlooBackend())
SMALLEST = min(WEIGHTS.manifest.chunks(), key=lambda chunk: chunk.nbytes)


def tried(
    endpoint: str,
    who: Identity | None = None,
    security: SocketSecurity = OPEN,
    timeout_s: float = 5.0,
    transports: tuple[str, ...] = ("tcp", "gloo"),
) -> Trial:
    return attempt(
        Candidate(endpoint, "test", transports=transports),
        who or identity(),
        BOTH,
        lambda: security,
        CHUNK_BYTES,
        name="trial",
        timeout_s=timeout_s,
    )


def is_free(source: Source) -> bool:
    return source.sessions == 0


@pytest.mark.parametrize("security", [OPEN, keys(secrets.token_bytes(32))], ids=["open", "key"])
def test_one_chunk_arrives_and_the_source_is_as_before(security: SocketSecurity) -> None:
    sent = SendLog()
    tampered = TamperedBackend(sent, TcpBackend())
    with serving(offer_of(WEIGHTS, backend=tampered), security=security) as source:
        trial = tried(source.endpoint, security=security, timeout_s=HANG_S)
        assert (trial.end, trial.detail, trial.transport) == (TrialEnd.WORKS, "", "tcp")
        assert (trial.nbytes, sent.sent) == (SMALLEST.nbytes, [SMALLEST.id])
        until(lambda: is_free(source))


def test_a_worker_like_another_is_known_by_what_that_one_publishes() -> None:
    mine = identity()
    same = Identity.of_fields(mine.fields(), mine.names.travelling(), {"sample": "a" * 32})
    assert (same.fields(), same.digest) == (mine.fields(), mine.digest)
    assert (same.names, same.content, same.role) == (mine.names, mine.content, mine.role)
    later = Identity.of_fields({**mine.fields(), "part.of": 7}, {}, {"a kind": "x"})
    assert later.fields() == {**mine.fields(), "part.of": 7} and later.content == {}


def test_a_busy_source_is_no_fault() -> None:
    with serving(offer_of(WEIGHTS, backends=BOTH), max_sessions=1) as source, occupied(source):
        trial = tried(source.endpoint)
    assert trial.end is TrialEnd.BUSY and "all 1 sessions are taken" in trial.detail


@contextmanager
def occupied(source: Source) -> Iterator[None]:
    with calling(source) as caller:
        caller.accepted(WEIGHTS, backend="tcp")
        yield


def test_other_weights_are_refused_in_words() -> None:
    with serving(offer_of(WEIGHTS)) as source:
        trial = tried(source.endpoint, identity(dtype="float16"))
        assert trial.end is TrialEnd.REFUSED and "dtype" in trial.detail
        trial = tried(source.endpoint, transports=("hccl",))
        assert (trial.end, trial.detail) == (TrialEnd.REFUSED, "it sends by hccl")


def test_a_wrong_byte_and_a_cut_are_told_apart() -> None:
    wrong = TamperedBackend(wrong_byte_in(SMALLEST.id), TcpBackend())
    with serving(offer_of(WEIGHTS, backend=wrong)) as source:
        trial = tried(source.endpoint)
    assert trial.end is TrialEnd.WRONG_BYTES and "digest" in trial.detail
    cut = TamperedBackend(cut_after(0), TcpBackend())
    with serving(offer_of(WEIGHTS, backend=cut)) as source:
        trial = tried(source.endpoint)
    assert trial.end is TrialEnd.BROKEN and "127.0.0.1:" in trial.detail


def test_who_is_not_there_and_who_has_another_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    trial = tried(nowhere)
    assert trial.end is TrialEnd.UNREACHED and "cannot connect" in trial.detail
    with serving(offer_of(WEIGHTS), security=keys(secrets.token_bytes(32))) as source:
        trial = tried(source.endpoint, security=keys(secrets.token_bytes(32)))
    assert trial.end is TrialEnd.UNREACHED and "cluster key" in trial.detail


def test_a_data_port_that_does_not_answer_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with played(WEIGHTS, port=port) as endpoint:
        trial = tried(endpoint)
    assert trial.end is TrialEnd.NO_GROUP
    assert f"127.0.0.1:{port}" in trial.detail


@pytest.mark.parametrize(
    "manifest",
    [
        b"{}",
        replace(WEIGHTS.manifest, chunk_bytes=1).encode(),
        Manifest(
            "checkpoint",
            1 << 20,
            (replace(WEIGHTS.manifest.tensors[0], nbytes=1 << 46),),
        ).encode(),
    ],
    ids=["none", "tiny chunks", "too many"],
)
def test_a_manifest_that_would_cost_too_much_is_not_cut_up(manifest: bytes) -> None:
    with played(WEIGHTS, manifest, port=9) as endpoint:
        assert tried(endpoint).end is TrialEnd.BROKEN
