"""Whom a source serves, whom it refuses, and that nothing a replica does ends it."""

from __future__ import annotations

import os
import secrets
import socket

import pytest
from tests.fastest import HANG_S, at_most, fastest_of
from tests.free_ports import free_port
from tests.loader.support import (
    GENERATION,
    OPEN,
    Caller,
    Toy,
    calling,
    candidate,
    equal,
    hello,
    identity,
    listening,
    offer_of,
    place,
    pull_from,
    pull_into,
    serving,
    start_source,
    toy_weights,
    until,
)

from netloader.errors import ListenError, NetloaderError
from netloader.protocol import messages
from netloader.source.listener import Exposure, Listener
from netloader.source.observer import SourceObserver
from netloader.source.settings import SourceSettings
from netmesh import PortRange, SocketSecurity

WEIGHTS = toy_weights(1)


def refusal_of(caller: Caller, message: messages.Hello) -> messages.Refuse:
    answer = caller.ask(message)
    assert isinstance(answer, messages.Refuse), answer
    return answer


def test_replica_with_the_same_identity_and_manifest_is_accepted() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        accept = caller.accepted(WEIGHTS)
    assert accept.generation == GENERATION
    assert accept.manifest == WEIGHTS.manifest.hash
    assert accept.have == ((0, len(WEIGHTS.manifest.chunks())),)


def test_another_identity_is_refused_with_the_differing_field() -> None:
    theirs = identity(built=place(tp_size=4, tp_rank=1))
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        refused = refusal_of(caller, hello(WEIGHTS, theirs))
    assert refused.code == "identity"
    assert refused.reason == "tp_size: mine 2, theirs 4"
    assert refused.retry_after_s is None


def test_replica_that_knows_no_generation_is_accepted() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        assert isinstance(caller.ask(hello(WEIGHTS, generation=None)), messages.Accept)


def test_another_manifest_is_refused_and_the_sources_own_sent_along() -> None:
    offer = offer_of(WEIGHTS)
    with serving(offer) as source, calling(source) as caller:
        caller.send(hello(toy_weights(rows=999)))
        refused, attachment = caller.receive_all()
    assert isinstance(refused, messages.Refuse)
    assert refused.code == "manifest"
    assert attachment == offer.encoded_manifest


def test_a_later_versions_message_is_refused_rather_than_left_waiting() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        caller.send_raw(b'{"type": "hello", "version": 4, "whom": "all new"}')
        refused = caller.receive()
    assert isinstance(refused, messages.Refuse)
    assert refused.code == "version"


def test_source_without_an_offer_is_not_ready() -> None:
    with serving(None) as source, calling(source) as caller:
        refused = refusal_of(caller, hello(WEIGHTS))
    assert (refused.code, refused.reason) == ("not-ready", "the source is still loading")


def test_full_source_is_busy_and_says_when_to_ask_again() -> None:
    with (
        serving(offer_of(WEIGHTS), max_sessions=1) as source,
        calling(source) as first,
        calling(source) as second,
    ):
        first.accepted(WEIGHTS)
        refused = refusal_of(second, hello(WEIGHTS))
    assert refused.code == "busy"
    assert refused.reason == "all 1 sessions are taken"
    assert refused.retry_after_s is not None
    assert refused.retry_after_s > 0


def test_a_source_whose_port_range_is_used_up_is_busy_and_names_it() -> None:
    """The listener takes the only port; another program may as well."""
    port = free_port()
    exposure = Exposure(ports=PortRange(port, port))
    handshake_s = SourceSettings().handshake_timeout_s
    listener = Listener("127.0.0.1", None, OPEN, handshake_s, exposure=exposure)
    with serving(offer_of(WEIGHTS), listener=listener) as source, calling(source) as caller:
        assert source.endpoint == f"127.0.0.1:{port}"
        refused = refusal_of(caller, hello(WEIGHTS))
        assert source.sessions == 0
    assert refused.code == "busy" and refused.retry_after_s
    assert f"all ports of PORT_RANGE {port}-{port} are taken: widen it" in refused.reason


def test_an_offer_that_cannot_be_described_is_refused_and_holds_no_session() -> None:
    offer = offer_of(WEIGHTS, attributes={"name": "\ud800"})  # No such character: not sendable.
    with serving(offer) as source, calling(source) as caller:
        assert refusal_of(caller, hello(WEIGHTS)).code == "not-ready"
        assert source.sessions == 0


def test_replica_that_never_opens_the_group_does_not_hold_its_session() -> None:
    with (
        serving(offer_of(WEIGHTS), max_sessions=1, rendezvous_timeout_s=0.1) as source,
        calling(source) as caller,
    ):
        caller.accepted(WEIGHTS)
        ended = caller.receive()
        assert isinstance(ended, messages.Bye)
        assert "did not come" in ended.reason
        assert source.sessions == 0
        caller.accepted(WEIGHTS)


def test_replica_that_says_bye_before_the_group_is_formed_frees_its_session_at_once() -> None:
    with (
        serving(offer_of(WEIGHTS), max_sessions=1, rendezvous_timeout_s=4 * HANG_S) as source,
        calling(source) as caller,
    ):
        session = caller.accepted(WEIGHTS).session
        caller.send(messages.Bye(session=session, reason="changed my mind"))
        until(lambda: source.sessions == 0)


def test_another_connection_cannot_speak_for_a_session() -> None:
    with (
        serving(offer_of(WEIGHTS)) as source,
        calling(source) as owner,
        calling(source) as other,
    ):
        session = owner.accepted(WEIGHTS).session
        for message in (
            messages.Want(session=session, chunks=(0,)),
            messages.Done(session=session),
            messages.Bye(session=session, reason="not mine"),
        ):
            answer = other.ask(message)
            assert isinstance(answer, messages.Bye)
            assert answer.reason == "no such session"
        assert source.sessions == 1
        assert owner.hears_nothing(0.05)


def test_asking_for_a_chunk_that_does_not_exist_ends_the_session() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        session = caller.accepted(WEIGHTS).session
        ended = caller.ask(messages.Want(session=session, chunks=(100_000,)))
        assert isinstance(ended, messages.Bye)
        assert "there are only" in ended.reason
        until(lambda: source.sessions == 0)


def test_asking_for_more_than_is_ever_needed_ends_the_session() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        session = caller.accepted(WEIGHTS).session
        ended = caller.ask(messages.Want(session=session, chunks=(0,) * 60_000))
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "asked for each chunk more than 4 times"
        until(lambda: source.sessions == 0)


def test_rubbish_on_the_control_port_does_not_end_the_source() -> None:
    offer = offer_of(WEIGHTS)
    with serving(offer) as source:
        with calling(source) as caller:
            for frames in (
                (b"",),
                (b"\xff" * 100,),
                (b"[" * 100_000,),
                (b"{}", b"{}", b"{}"),
                (b'{"type": "accept"}',),
                (b'{"type": "hello", "fields": {"x": 1e999}}',),
                (os.urandom(1000), os.urandom(1000)),
            ):
                caller.send_raw(*frames)
            caller.send_raw(b"x" * (messages.MAX_MESSAGE_BYTES + 1))  # Cuts this connection.
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" + b"\0" * 8 + b"\x7f"):
            with socket.create_connection(("127.0.0.1", source.port)) as stranger:
                stranger.sendall(rubbish)
        replica = toy_weights()
        pull_from(pull_into(replica), candidate(source))
    assert equal(replica, WEIGHTS)


def test_integers_beyond_64_bits_are_refused_not_tripped_over() -> None:
    message = hello(WEIGHTS).model_dump_json().replace('"tp_size":2', f'"tp_size":{1 << 80}')
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        caller.send_raw(message.encode())
        assert isinstance(caller.receive(), messages.Refuse)


def test_a_listener_for_session_counts_that_fails_does_not_end_the_source() -> None:
    def fail(count: int) -> None:
        raise NetloaderError("the mesh is gone")

    replica = toy_weights()
    with serving(offer_of(WEIGHTS), observer=SourceObserver(sessions=fail)) as source:
        pull_from(pull_into(replica), candidate(source))
        until(lambda: source.sessions == 0)
    assert equal(replica, WEIGHTS)


def test_session_counts_are_told_and_end_at_zero() -> None:
    counts: list[int] = []
    with serving(offer_of(WEIGHTS), observer=SourceObserver(sessions=counts.append)) as source:
        pull_from(pull_into(toy_weights()), candidate(source))
        until(lambda: len(counts) == 2)
    assert counts == [1, 0]


def test_withdrawn_source_refuses_with_the_reason_and_aborts_its_sessions() -> None:
    with serving(offer_of(WEIGHTS)) as source, calling(source) as caller:
        caller.accepted(WEIGHTS)
        source.withdraw("its weights are being updated")
        ended = caller.receive()
        assert isinstance(ended, messages.Bye)
        assert ended.reason == "its weights are being updated"
        refused = refusal_of(caller, hello(WEIGHTS))
        assert (refused.code, refused.reason) == ("not-ready", "its weights are being updated")


def test_source_can_serve_again_after_a_withdrawal() -> None:
    offer = offer_of(WEIGHTS)
    replica = toy_weights()
    with serving(offer) as source:
        source.withdraw("asleep")
        source.serve(offer)
        pull_from(pull_into(replica), candidate(source))
    assert equal(replica, WEIGHTS)


@fastest_of(5)
def test_close_is_quick_with_sessions_open_and_can_be_repeated() -> None:
    source = start_source(timeout_s=HANG_S, rendezvous_timeout_s=HANG_S)
    source.serve(offer_of(WEIGHTS))
    with calling(source) as caller:
        caller.accepted(WEIGHTS)
        with at_most(1):
            source.close()
            source.close()
            source.withdraw("after the end")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", source.port), 1)


def test_taken_port_is_a_listen_error() -> None:
    with serving(None) as source, pytest.raises(ListenError, match=f"127.0.0.1:{source.port}"):
        listening(port=source.port)


def test_an_address_that_is_not_ours_is_a_listen_error() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        listening(host="192.0.2.1")


def test_cluster_key_lets_its_holders_in_and_nobody_else() -> None:
    key = secrets.token_bytes(32)
    ours = SocketSecurity.from_keys([key], "mesh", "netloader")
    other = SocketSecurity.from_keys([secrets.token_bytes(32)], "mesh", "netloader")
    replica = toy_weights()
    with serving(offer_of(WEIGHTS), security=ours) as source:
        for stranger in (OPEN, other):
            with pytest.raises(NetloaderError):
                pull_from(
                    pull_into(toy_weights(), security=stranger, timeout_s=0.2), candidate(source)
                )
        pull_from(pull_into(replica, security=ours), candidate(source))
    assert equal(replica, WEIGHTS)


def test_generation_is_asked_for_anew_each_time() -> None:
    now = [1]
    source = start_source(generation=lambda: now[0])
    try:
        source.serve(offer_of(WEIGHTS))
        now[0] = 2
        with calling(source) as caller:
            assert refusal_of(caller, hello(WEIGHTS, generation=1)).code == "generation"
            assert isinstance(caller.ask(hello(WEIGHTS, generation=2)), messages.Accept)
    finally:
        source.close()


def test_ipv6_loopback_can_be_listened_on() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        source = start_source(listener=listening(host="::1"))
    except ListenError as error:
        pytest.skip(str(error))
    replica = toy_weights()
    try:
        source.serve(offer_of(WEIGHTS))
        assert source.endpoint == f"[::1]:{source.port}"
        pull_from(pull_into(replica), candidate(source))
    finally:
        source.close()
    assert equal(replica, WEIGHTS)


def test_model_stays_alive_while_it_is_served() -> None:
    model = Toy(3)
    del model
    with serving(offer_of(toy_weights(3))) as source:
        replica = toy_weights()
        pull_from(pull_into(replica), candidate(source))
    assert equal(replica, toy_weights(3))
