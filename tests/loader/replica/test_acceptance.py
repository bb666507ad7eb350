"""Hello, the answer to it, and what sources agree on: values alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Any

import pytest
from tests.loader.support import GENERATION, OPEN, identity, toy_weights

from netloader.errors import Refused, TransferError
from netloader.plain import Plain
from netloader.protocol import messages
from netloader.replica import acceptance
from netloader.replica.acceptance import Agreement, Promise
from netloader.replica.request import Request
from netloader.transport.gloo import GlooBackend
from netloader.weights.capture import DigestKind
from netmesh import Reach

WEIGHTS = toy_weights(1, rows=200)
CHUNKS = len(WEIGHTS.manifest.chunks())
DIGESTS = bytes(range(16)) * CHUNKS
HELLO = acceptance.hello(
    Request(identity(), (GlooBackend(),), lambda: OPEN, "replica"),
    GENERATION,
    WEIGHTS.manifest,
    "gloo",
)


def accept(**changes: Any) -> messages.Accept:
    values: dict[str, Any] = {
        "session": "0" * 32,
        "generation": GENERATION,
        "identity": identity().digest,
        "manifest": WEIGHTS.manifest.hash,
        "attributes": {"a.x": 1},
        "content": {"sample": "a" * 32},
        "computed": {"rope": "b" * 32},
        "host": "127.0.0.1",
        "port": 1,
        "secret": "",
        "have": ((0, 1), (2, CHUNKS)),
    }
    return messages.Accept.model_validate(values | changes)


def read(answer: messages.Accept, attachment: bytes = DIGESTS) -> Promise:
    return acceptance.read("a:1", HELLO, CHUNKS, answer, attachment)


def test_hello_asks_for_these_weights_of_that_process() -> None:
    assert (HELLO.identity, HELLO.manifest) == (identity().digest, WEIGHTS.manifest.hash)
    assert (HELLO.generation, HELLO.backend, HELLO.replica) == (GENERATION, "gloo", "replica")
    assert HELLO.chunk_bytes == WEIGHTS.manifest.chunk_bytes


def test_a_promise_is_all_that_the_source_vouches_for() -> None:
    promise = read(accept())
    assert promise.digests == (bytes(range(16)),) * CHUNKS
    assert promise.digest_kind == "xxh3", "older sources do not say"
    assert promise.attributes == {"a.x": 1}
    assert promise.content == {"sample": "a" * 32}
    assert promise.computed == {"rope": "b" * 32}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 4}, "another protocol version: mine 3, theirs 4"),
        ({"identity": "0" * 32}, "another identity"),
        ({"manifest": "0" * 32}, "another manifest"),
        ({"generation": 8}, "another generation: mine 7, theirs 8"),
        ({"digest": "crc"}, "promises digests of an unknown kind, 'crc'"),
        ({"have": ((0, CHUNKS + 1),)}, "says it has chunks"),
        ({"have": ((-1, 1),)}, "says it has chunks"),
        ({"have": ((2, 3), (0, 1))}, "says it has chunks"),
        ({"have": ((0, CHUNKS),) * 1000}, "says it has chunks"),
    ],
)
def test_an_acceptance_that_does_not_fit(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(TransferError, match=complaint) as caught:
        read(accept(**change))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("attachment", [b"", DIGESTS[:-1], DIGESTS + bytes(16)])
def test_digests_for_another_number_of_chunks(attachment: bytes) -> None:
    with pytest.raises(TransferError, match="another bytes of digests"):
        read(accept(), attachment)


def test_a_source_says_how_its_digests_are_computed() -> None:
    assert read(accept(digest="reduce")).digest_kind == "reduce"
    assert "reduce" in HELLO.digests


def test_any_generation_will_do_where_none_is_expected() -> None:
    hello = HELLO.model_copy(update={"generation": None})
    assert acceptance.read("a:1", hello, CHUNKS, accept(generation=8), DIGESTS).digests


KEYLESS, KEYED = Reach(loopback=True).allows, Reach.of("10.0.0.1:1").allows
NETWORK = Reach.of("10.0.0.1:1", [ip_network("10.0.0.0/8")]).allows


@pytest.mark.parametrize(
    ("reaches", "endpoint", "host", "may"),
    [
        (KEYLESS, "127.0.0.1:5", "127.0.0.1", True),
        (KEYLESS, "127.0.0.1:5", "10.0.0.2", False),
        (KEYLESS, "127.0.0.1:5", "metadata.internal", False),
        (KEYLESS, "[::1]:5", "::1", True),
        (KEYLESS, "[::1]:5", "fd00::2", False),
        (KEYED, "10.0.0.2:5", "10.0.0.2", True),
        (KEYED, "10.0.0.2:5", "127.0.0.1", False),
        (NETWORK, "10.0.0.2:5", "10.9.0.2", True),
        (NETWORK, "10.0.0.2:5", "192.0.2.1", False),
        # An operator has listed it, beyond what messages may name.
        (KEYLESS, "10.0.0.2:5", "10.0.0.3", True),
        (KEYLESS, "host.internal:5", "10.0.0.3", True),
    ],
)
def test_a_source_within_reach_does_not_lead_out_of_it(
    reaches: Callable[[str], bool], endpoint: str, host: str, may: bool
) -> None:
    answer = accept(host=host, port=7)
    if may:
        acceptance.stay_in_reach(endpoint, answer, reaches)
        return
    with pytest.raises(TransferError, match="where it may not connect") as caught:
        acceptance.stay_in_reach(endpoint, answer, reaches)
    assert host in str(caught.value)


class TestAnswer:
    def answer(self, message: messages.Message, attachment: bytes = b"") -> messages.Accept:
        return acceptance.accepted("a:1", WEIGHTS.manifest, message, attachment)

    def test_acceptance(self) -> None:
        assert self.answer(accept()) == accept()

    def test_refusal_with_a_time(self) -> None:
        with pytest.raises(Refused, match="refused: all taken") as caught:
            self.answer(messages.Refuse(code="busy", reason="all taken", retry_after_s=2))
        assert caught.value.retry_after_s == 2.0

    def test_refusal_of_the_manifest_with_the_first_difference(self) -> None:
        theirs = toy_weights(rows=201).manifest
        refuse = messages.Refuse(code="manifest", reason="other tensors")
        with pytest.raises(Refused, match=r"other tensors \(.*embed.weight.*mine \(200, 64\)"):
            self.answer(refuse, theirs.encode())

    @pytest.mark.parametrize("attachment", [b"rubbish", WEIGHTS.manifest.encode()])
    def test_refusal_of_the_manifest_with_one_that_tells_nothing(self, attachment: bytes) -> None:
        refuse = messages.Refuse(code="manifest", reason="other tensors")
        with pytest.raises(Refused, match=r"other tensors \(.+\)"):
            self.answer(refuse, attachment)

    def test_anything_else(self) -> None:
        with pytest.raises(TransferError, match="answered hello with done"):
            self.answer(messages.Done(session="0" * 32))


def promise(
    digest: int = 0,
    attributes: Mapping[str, Plain] | None = None,
    kind: DigestKind = "xxh3",
) -> Promise:
    return Promise((bytes([digest]) * 16,), kind, attributes or {})


class TestAgreement:
    def test_the_first_promise_counts(self) -> None:
        agreement = Agreement()
        assert agreement.promise is None
        assert agreement.join("a:1", promise()) is None
        assert agreement.join("b:1", promise()) is None
        assert agreement.promise == promise()

    def test_who_promises_something_else_contradicts_it(self) -> None:
        agreement = Agreement()
        agreement.join("a:1", promise())
        assert agreement.join("b:1", promise(1)) == "promises other digests than an earlier source"
        said = agreement.join("b:1", promise(0, kind="reduce"))
        assert said is not None and said.startswith("promises digests of another kind, reduce,")
        said = agreement.join("b:1", promise(0, {"a.x": 1}))
        assert said == "has other attributes than an earlier source (a.x: nothing, 1)"
        assert agreement.promise == promise()

    def test_a_promise_is_void_once_nobody_stands_for_it(self) -> None:
        agreement = Agreement()
        for endpoint in ("a:1", "b:1"):
            agreement.join(endpoint, promise())
        assert not agreement.break_off("a:1")
        assert agreement.promise == promise()
        assert agreement.break_off("b:1")
        assert agreement.promise is None
        assert agreement.join("c:1", promise(1)) is None

    def test_who_contradicted_it_does_not_stand_for_it(self) -> None:
        agreement = Agreement()
        agreement.join("a:1", promise())
        agreement.join("b:1", promise(1))
        assert not agreement.break_off("b:1")
        assert agreement.break_off("a:1")
