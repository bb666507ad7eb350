from __future__ import annotations

from dataclasses import replace

import pytest
from tests.loader.support import identity

from netloader.identity import Evidence, Identity, Parallel, fields_digest, mismatch


def evidence(of: Identity) -> dict[str, str]:
    """As it travels."""
    return {str(kind): text for kind, text in of.content.items()}


def against(theirs: Identity, mine: Identity | None = None) -> str | None:
    return mismatch(mine or identity(), theirs.fields(), evidence(theirs))


def test_equal_identities_match() -> None:
    assert against(identity()) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "other"}, "model: mine 'toy', theirs 'other'"),
        ({"architecture": "Other"}, "architecture: mine 'Toy', theirs 'Other'"),
        ({"dtype": "bfloat16"}, "dtype: mine 'float32', theirs 'bfloat16'"),
        ({"quantization": "gptq"}, "quantization: mine '', theirs 'gptq'"),
        ({"quantization_config": "f"}, "quantization_config: mine '', theirs 'f'"),
        ({"vllm_version": "0.31.0"}, "vllm_version: mine '0.32.0', theirs '0.31.0'"),
        ({"role": "draft"}, "role: mine 'target', theirs 'draft'"),
        ({"layout": "runtime"}, "layout: mine 'checkpoint', theirs 'runtime'"),
        ({"placement": "linear+0"}, "placement: mine '', theirs 'linear+0'"),
    ],
)
def test_every_field_counts_and_is_named(change: dict[str, str], reason: str) -> None:
    assert against(identity(**change)) == reason


@pytest.mark.parametrize(
    "field", ["tp_size", "tp_rank", "pp_size", "pp_rank", "ep_size", "ep_rank"]
)
def test_every_place_in_the_parallel_layout_counts(field: str) -> None:
    theirs = identity(parallel=replace(identity().parallel, **{field: 9}))
    assert (against(theirs) or "").startswith(f"{field}: mine ")


def test_all_differing_fields_are_named() -> None:
    reason = against(identity(parallel=Parallel(tp_size=4, tp_rank=3)))
    assert reason == "tp_size: mine 2, theirs 4; tp_rank: mine 1, theirs 3"


def test_field_that_the_other_side_does_not_have() -> None:
    fields = identity().fields()
    del fields["dtype"]
    assert (
        mismatch(identity(), fields, evidence(identity())) == "dtype: mine 'float32', theirs None"
    )


def test_field_that_only_the_other_side_has() -> None:
    fields = identity().fields() | {"adapter": 3}
    reason = mismatch(identity(), fields, evidence(identity()))
    assert reason == "'adapter': unknown to me, theirs 3"


def test_what_the_other_side_says_is_quoted_shortly() -> None:
    fields = identity().fields() | {"model": "x" * 100_000, "y" * 100_000: "z" * 100_000}
    assert len(mismatch(identity(), fields, {}) or "") < 3000


def test_digest_covers_all_fields_and_not_the_content() -> None:
    assert identity().digest == identity(content={}).digest
    assert identity().digest != identity(dtype="bfloat16").digest
    assert identity().digest != identity(parallel=Parallel()).digest


def test_digest_does_not_depend_on_the_order_of_fields() -> None:
    fields = identity().fields()
    assert fields_digest(dict(reversed(fields.items()))) == identity().digest


def test_digest_is_32_hexadecimal_digits() -> None:
    assert len(bytes.fromhex(identity().digest)) == 16


@pytest.mark.parametrize(
    ("mine", "theirs", "fits"),
    [
        ({"sample": "1"}, {"sample": "1"}, True),
        ({"sample": "1"}, {"sample": "2"}, False),
        ({"sample": "1"}, {"full": "1"}, False),
        ({"commit": "1", "sample": "1"}, {"commit": "1"}, True),
        ({"commit": "1", "sample": "1"}, {"commit": "1", "sample": "2"}, False),
        ({"commit": "1", "sample": "1"}, {"commit": "2", "sample": "1"}, False),
        ({}, {"sample": "1"}, False),
        ({"sample": "1"}, {}, False),
        ({}, {}, False),
        ({"sample": "1"}, {"sample": "1", "unheard-of": "9"}, True),
    ],
)
def test_one_kind_of_evidence_must_be_shared_and_none_may_differ(
    mine: dict[str, str], theirs: dict[str, str], fits: bool
) -> None:
    content = {Evidence(kind): text for kind, text in mine.items()}
    assert (mismatch(identity(content=content), identity().fields(), theirs) is None) is fits


def test_evidence_that_cannot_be_compared_is_named() -> None:
    theirs = identity(content={Evidence.COMMIT: "x"})
    assert against(theirs) == (
        "checkpoint content cannot be compared: I know sample, they know commit"
    )
