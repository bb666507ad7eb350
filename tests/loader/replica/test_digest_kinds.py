"""A replica verifies by its source's kind of digest, and passes that kind on."""

from __future__ import annotations

import dataclasses

import pytest
from tests.loader.support import (
    TamperedBackend,
    candidate,
    cut_after,
    ended_by,
    equal,
    offer_of,
    pull_from,
    pull_into,
    serving,
    toy_weights,
    wrong_byte_in,
)

from netloader.replica.outcome import Contradicted, Corrupt, Lost
from netloader.weights import digests
from netloader.weights.capture import DigestKind

OF_A_DEVICE = dataclasses.replace(toy_weights(1), digest_kind="reduce")


@pytest.mark.parametrize("kind", digests.KINDS)
def test_bytes_of_a_source_with_other_memory_are_verified(kind: DigestKind) -> None:
    truth, replica = dataclasses.replace(toy_weights(1), digest_kind=kind), toy_weights()
    offer = offer_of(truth)
    pull = pull_into(replica)
    with serving(offer) as source:
        pull_from(pull, candidate(source))
    assert equal(replica, truth)
    assert (pull.digest_kind, pull.digests) == (kind, offer.digests)
    mine = dataclasses.replace(replica, digest_kind=pull.digest_kind)
    assert digests.of_weights(mine, mine.manifest.chunks()) == offer.digests


def test_a_wrong_byte_is_found_by_either_kind() -> None:
    for truth in (toy_weights(1), OF_A_DEVICE):
        offer = offer_of(truth, backend=TamperedBackend(wrong_byte_in(3)))
        with serving(offer) as source, ended_by(Corrupt, match="chunk 3"):
            pull_from(pull_into(toy_weights()), candidate(source))


def test_a_source_of_the_other_kind_does_not_join_a_pull_that_has_begun() -> None:
    replica = toy_weights()
    pull = pull_into(replica)
    broken = offer_of(toy_weights(1), backend=TamperedBackend(cut_after(3)))
    with serving(broken) as source, ended_by(Lost):
        pull_from(pull, candidate(source))
    with serving(offer_of(OF_A_DEVICE)) as source, ended_by(Contradicted, match="another kind"):
        pull_from(pull, candidate(source))
    with serving(offer_of(toy_weights(1))) as source:
        pull_from(pull, candidate(source))
    assert equal(replica, OF_A_DEVICE)
    assert pull.digest_kind == "xxh3"
