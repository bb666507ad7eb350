"""What a replica does wrong costs that replica, and nobody else."""

from __future__ import annotations

import logging
import signal
import socket
from pathlib import Path

import pytest
from tests.fastest import HANG_S
from tests.forked import start_loader
from tests.loader.source.scripted_replica import WEIGHTS, replica_of
from tests.loader.support import MEMORY, calling, hello, offer_of, serving, toy_weights, until

from netloader.protocol import messages
from netloader.transport import join


def test_hellos_that_ask_for_manifests_get_few_of_them() -> None:
    """Each is up to 20 MB for a large model."""
    offer = offer_of(WEIGHTS)
    size = len(offer.encoded_manifest)
    other = hello(toy_weights(rows=999))
    with serving(offer, manifest_rate=size / 60) as source, calling(source) as caller:
        sizes = []
        for _ in range(10):
            caller.send(other)
            message, attachment = caller.receive_all()
            assert isinstance(message, messages.Refuse)
            sizes.append(len(attachment))
    assert sizes == [size] + 9 * [0]


def test_a_replica_that_asks_on_and_on_and_reads_nothing_costs_little() -> None:
    offer = offer_of(WEIGHTS)
    with serving(offer, max_sessions=1) as source, calling(source) as flood:
        for _ in range(5000):
            flood.send(messages.Done(session="0" * 32))
        with replica_of(source) as replica:
            assert replica.fetch(0).numel()


def test_a_replica_that_leaves_without_a_word_frees_its_place() -> None:
    with serving(offer_of(WEIGHTS), max_sessions=1, rendezvous_timeout_s=0.3) as source:
        for step in ("accepted", "connected", "grouped", "asked"):
            with calling(source) as caller:
                accept = caller.accepted(WEIGHTS)
                if step == "connected":
                    socket.create_connection((accept.host, accept.port)).close()
                if step in ("grouped", "asked"):
                    group = join(accept.host, accept.port, accept.secret, MEMORY, 5)
                    if step == "asked":
                        caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
                    group.abort()
                    caller.send(messages.Want(session=accept.session, chunks=(3,)))
            until(lambda: source.sessions == 0)


def test_words_after_the_end_change_nothing() -> None:
    with serving(offer_of(WEIGHTS)) as source, replica_of(source) as replica:
        replica.fetch(0)
        replica.caller.send(messages.Done(session=replica.session))
        until(lambda: source.sessions == 0)
        for message in (
            messages.Want(session=replica.session, chunks=(0,)),
            messages.Done(session=replica.session),
            messages.Bye(session=replica.session, reason="late", bad_chunk=0),
        ):
            answer = replica.caller.ask(message)
            assert isinstance(answer, messages.Bye)
            assert answer.reason == "no such session"
        with replica_of(source) as other:
            other.fetch(0)


def test_what_a_replica_says_cannot_forge_lines_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged = "\n2026-01-01 ERROR all is lost\x1b[2J" * 40
    with (
        serving(offer_of(WEIGHTS)) as source,
        calling(source) as caller,
        caplog.at_level(logging.DEBUG),
    ):
        answer = caller.ask(hello(WEIGHTS, replica=forged))
        assert isinstance(answer, messages.Accept)
        caller.send(messages.Bye(session=answer.session, reason=forged, bad_chunk=0))
        until(lambda: "the replica gave up" in caplog.text)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 1500


def test_a_replica_that_receives_less_than_is_sent_ends_itself_and_not_the_source(
    tmp_path: Path,
) -> None:
    """Gloo terminates a process that gets more than it has posted for: the receiver's, that is."""
    with (
        serving(offer_of(WEIGHTS), rendezvous_timeout_s=HANG_S) as source,
        calling(source) as caller,
    ):
        accept = caller.accepted(WEIGHTS, backend="gloo")
        command = [accept.host, str(accept.port), accept.secret]
        with (
            (tmp_path / "log").open("wb") as log,
            start_loader("tests.loader.source.short_receive", *command, stderr=log) as process,
        ):
            assert process.stdout.readline() == "ready\n"
            caller.send(messages.Want(session=accept.session, chunks=(0, 1, 2)))
            assert process.wait() == -signal.SIGABRT
        until(lambda: source.sessions == 0)
        with replica_of(source) as other:
            assert other.fetch(0).numel()


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([b"rubbish"], "a peer sent what is no control message"),
        (
            messages.encode(messages.Refuse(code="busy", reason="no")),
            "a replica sent a refuse, which only sources send",
        ),
    ],
)
def test_a_peer_that_repeats_itself_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, frames: list[bytes], said: str
) -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        for _ in range(100):
            caller.send_raw(*frames)
        # It answers one after the other.
        caller.send(messages.Want(session="1" * 32, chunks=(0,)))
        until(lambda: caller.receive().type == "bye")
    assert caplog.text.count(said) == 7  # of the 1st, 2nd, 4th .. 64th
