"""Who is admitted to an offer, and what the others are told: values only."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.loader.support import GENERATION, hello, identity, offer_of, place, toy_weights

from netloader.identity.identity import Evidence, Names, fields_digest
from netloader.protocol import messages
from netloader.source.offer import Unready
from netloader.source.policy.admission import admit
from netloader.transport.gloo import GlooBackend
from netloader.transport.memory import MemoryBackend

WEIGHTS = toy_weights(1, rows=10)
OFFER = offer_of(WEIGHTS)


def refused(message: messages.Hello) -> tuple[str, str]:
    answer = admit(message, OFFER, GENERATION)
    assert isinstance(answer, messages.Refuse)
    assert answer.retry_after_s is None
    return answer.code, answer.reason


@pytest.mark.parametrize("generation", [GENERATION, None], ids=["found in the mesh", "static"])
def test_replica_that_wants_just_these_weights_gets_them(generation: int | None) -> None:
    assert admit(hello(WEIGHTS, generation=generation), OFFER, GENERATION) is OFFER


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"version": 4}, "version", "mine is version 3, yours 4"),
        ({"generation": 8}, "generation", f"I am generation {GENERATION}, not 8: restarted"),
        ({"identity": "0" * 32}, "identity", "your fields have another digest"),
        ({"backend": "nccl"}, "backend", "mine memory, tcp, gloo, theirs nccl"),
        ({"manifest": "0" * 32}, "manifest", "our tensors differ"),
    ],
)
def test_hello_with_another_value_is_refused_with_the_difference(
    changes: dict[str, Any], code: str, reason: str
) -> None:
    assert refused(hello(WEIGHTS, **changes)) == (code, reason)


OF_A_DEVICE = offer_of(dataclasses.replace(WEIGHTS, digest_kind="reduce"))


def test_replica_that_cannot_verify_the_digests_is_refused() -> None:
    old = hello(WEIGHTS)  # Its version does not say what it can verify.
    answer = admit(old, OF_A_DEVICE, GENERATION)
    assert isinstance(answer, messages.Refuse)
    assert answer.code == "version"
    assert answer.reason == "my digests are of kind reduce, which yours does not compute"
    assert admit(hello(WEIGHTS, digests=("xxh3", "reduce")), OF_A_DEVICE, GENERATION) is OF_A_DEVICE


def test_a_source_sends_by_any_of_its_transports() -> None:
    memory = MemoryBackend()
    offer = offer_of(WEIGHTS, backends=(memory, GlooBackend()))
    assert admit(hello(WEIGHTS, backend="gloo"), offer, GENERATION) is offer
    assert admit(hello(WEIGHTS, backend="memory"), offer, GENERATION) is offer
    assert offer.backend("memory") is memory
    answer = admit(hello(WEIGHTS, backend="hccl"), offer, GENERATION)
    assert isinstance(answer, messages.Refuse)
    assert (answer.code, answer.reason) == ("backend", "mine memory, gloo, theirs hccl")


def test_a_differing_field_of_the_identity_is_named() -> None:
    theirs = identity(built=place(tp_size=4, tp_rank=1))
    assert refused(hello(WEIGHTS, theirs)) == ("identity", "tp_size: mine 2, theirs 4")


def test_a_field_that_this_version_does_not_know_is_named() -> None:
    fields = identity().fields() | {"adapter": "x"}
    message = hello(WEIGHTS, fields=fields, identity=fields_digest(fields))
    assert refused(message) == ("identity", "adapter: mine nothing, theirs 'x'")


def test_other_checkpoint_content_is_refused_although_all_fields_agree() -> None:
    theirs = identity(content={Evidence.SAMPLE: "b" * 32})
    code, reason = refused(hello(WEIGHTS, theirs))
    assert code == "identity"
    assert "checkpoint content (sample)" in reason


def test_names_count_only_where_the_mesh_was_not_asked() -> None:
    theirs = identity(names=Names("", "org/other", "/models/other"))
    assert admit(hello(WEIGHTS, theirs), OFFER, GENERATION) is OFFER
    code, reason = refused(hello(WEIGHTS, theirs, generation=None))
    assert code == "identity"
    assert "set MODEL alike on both" in reason


def test_without_an_offer_everybody_hears_why() -> None:
    answer = admit(hello(WEIGHTS), Unready("its weights are being updated"), GENERATION)
    assert isinstance(answer, messages.Refuse)
    assert (answer.code, answer.reason) == ("not-ready", "its weights are being updated")


def test_a_restarted_source_says_so_before_it_is_ready() -> None:
    answer = admit(hello(WEIGHTS), Unready("still loading"), GENERATION + 1)
    assert isinstance(answer, messages.Refuse)
    assert answer.code == "generation"


def test_replica_of_another_fabric_is_refused_in_words() -> None:
    message = hello(WEIGHTS, fabric="rail-2")
    answer = admit(message, OFFER, GENERATION, "rail-1")
    assert isinstance(answer, messages.Refuse)
    assert (answer.code, answer.reason) == ("identity", "FABRIC: mine rail-1, theirs rail-2")
    assert admit(message, OFFER, GENERATION, "rail-2") is OFFER
    assert admit(message, OFFER, GENERATION) is OFFER
    assert admit(hello(WEIGHTS), OFFER, GENERATION, "rail-1") is OFFER
