from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loader.support import identity, place

from netloader.errors import IdentityError
from netloader.identity.identity import (
    STRENGTH,
    Evidence,
    Identity,
    LazyContent,
    Names,
    content_id,
    content_mismatch,
    fields_digest,
    known,
    mismatch,
    names_differ,
)


def against(theirs: Identity, mine: Identity | None = None) -> str | None:
    return mismatch(
        mine or identity(), theirs.fields(), known(theirs.content), theirs.names.travelling()
    )


def test_equal_identities_match() -> None:
    assert against(identity()) is None


def test_a_processed_identity_has_parts_of_its_own() -> None:
    mine, theirs = (identity().processed({"chip": chip, "kernel.A": "x"}) for chip in ("910B", "A"))
    assert mismatch(mine, theirs.fields(), theirs.content) == "chip: mine '910B', theirs 'A'"
    assert mismatch(mine, mine.fields(), mine.content) is None


def test_between_layouts_only_parts_that_both_have_are_told() -> None:
    processed = identity(dtype="bfloat16").processed({"chip": "910B", "kernel.A": "x"})
    reason = "dtype: mine 'float32', theirs 'bfloat16'; layout: mine 'checkpoint', theirs 'runtime'"
    assert mismatch(identity(), processed.fields(), processed.content) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architecture": "Other"}, "architecture: mine 'Toy', theirs 'Other'"),
        ({"dtype": "bfloat16"}, "dtype: mine 'float32', theirs 'bfloat16'"),
        ({"quantization": "gptq"}, "quantization: mine '', theirs 'gptq'"),
        ({"role": "draft"}, "role: mine 'target', theirs 'draft'"),
        ({"layout": "runtime"}, "layout: mine 'checkpoint', theirs 'runtime'"),
        (
            {"built": place(tp_size=2, tp_rank=1) | {"code.vllm": "0.33.0"}},
            "code.vllm: mine '0.32.0', theirs '0.33.0'",
        ),
        (
            {"config": {"rope_theta": "500000.0"}},
            "config: rope_theta: mine 10000.0, theirs 500000.0",
        ),
        (
            {"config": {"rope_theta": "10000.0", "hidden_act": '"gelu"'}},
            'config: hidden_act: mine nothing, theirs "gelu"',
        ),
        ({"config": {}}, "config: rope_theta: mine 10000.0, theirs nothing"),
    ],
)
def test_every_part_counts_and_is_named_with_both_values(
    change: dict[str, object], reason: str
) -> None:
    assert against(identity(**change)) == reason


@pytest.mark.parametrize(
    "field", ["tp_size", "tp_rank", "pp_size", "pp_rank", "ep_size", "ep_rank"]
)
def test_every_place_in_the_parallel_layout_counts(field: str) -> None:
    theirs = identity(built={**identity().built, field: 9})
    assert (against(theirs) or "").startswith(f"{field}: mine ")


def test_all_differing_parts_are_named() -> None:
    reason = against(identity(built=place(tp_size=4, tp_rank=3)))
    assert reason == "tp_size: mine 2, theirs 4; tp_rank: mine 1, theirs 3"


def test_shards_are_told_by_layers_and_by_digest_only_where_nothing_else_differs() -> None:
    mine = identity(built=place() | {"shards": "a" * 32, "shard.Linear": "tp 0/2"})
    theirs = identity(built=place() | {"shards": "b" * 32, "shard.Linear": "tp 1/2"})
    assert against(theirs, mine) == "shard.Linear: mine 'tp 0/2', theirs 'tp 1/2'"
    theirs = identity(built=place() | {"shards": "b" * 32, "shard.Linear": "tp 0/2"})
    assert (against(theirs, mine) or "").startswith("shards: the built layers hold other parts")


def test_many_differing_parts_are_counted() -> None:
    many = {f"key{number}": "1" for number in range(100)}
    reason = against(identity(config=many)) or ""
    assert reason.endswith("; and 93 more")
    assert len(reason) < 1000


def test_part_that_only_one_side_has_counts() -> None:
    fields = identity().fields()
    del fields["dtype"]
    assert mismatch(identity(), fields, {}) == "dtype: mine 'float32', theirs nothing"
    fields = identity().fields() | {"adapter": 3}
    assert mismatch(identity(), fields, {}) == "adapter: mine nothing, theirs 3"


def test_what_the_other_side_says_is_quoted_shortly_and_harmlessly() -> None:
    fields = identity().fields() | {"dtype": "x" * 100_000, "y\x1b" * 100_000: "z\n" * 100_000}
    reason = mismatch(identity(), fields, {}) or ""
    assert len(reason) < 3000
    assert "\x1b" not in reason
    assert "\n" not in reason


def test_digest_covers_all_fields_and_neither_content_nor_names() -> None:
    assert identity().digest == identity(content={}).digest
    assert identity().digest == identity(names=Names("other", "o/ther", "/o")).digest
    assert identity().digest != identity(dtype="bfloat16").digest
    assert identity().digest != identity(built=place()).digest
    assert identity().digest != identity(config={}).digest


def test_digest_does_not_depend_on_the_order_of_fields() -> None:
    fields = identity().fields()
    assert fields_digest(dict(reversed(fields.items()))) == identity().digest


def test_digest_is_32_hexadecimal_digits() -> None:
    assert len(bytes.fromhex(identity().digest)) == 16


class TestNames:
    """Names are labels, unless operators set them on both sides."""

    @pytest.mark.parametrize(
        ("mine", "theirs", "reason"),
        [
            (Names("a"), Names("a"), None),
            (Names("a"), Names("b"), "MODEL: mine 'a', theirs 'b'"),
            (Names("a"), Names("", "b", "/b"), None),
            (Names("", "a", "/a"), Names("b"), None),
            (Names("", "org/a", "/a"), Names("", "org/b", "/b"), None),
            (Names("", "a", "a/"), Names("", "a", "./a"), None),
        ],
    )
    def test_in_the_mesh(self, mine: Names, theirs: Names, reason: str | None) -> None:
        assert against(identity(names=theirs), identity(names=mine)) == reason

    @pytest.mark.parametrize(
        ("mine", "theirs", "fits"),
        [
            (Names("a", "org/a", "/a"), Names("a", "org/b", "/b"), True),
            (Names("", "org/a", "/x/a"), Names("", "org/a", "/y/a"), True),
            (Names("", "/a", "/a/"), Names("", "/a", "/a"), True),
            (Names("", "/a", "/a"), Names("/a", "/b", "/b"), True),
            (Names("", "/a", "/a"), Names("", "/b", "/b"), False),
            (Names("m", "/a", "/a"), Names("", "/b", "/b"), False),
            (Names(), Names("", "/b", "/b"), True),
        ],
    )
    def test_of_a_static_source(self, mine: Names, theirs: Names, fits: bool) -> None:
        found = names_differ(mine, theirs.travelling())
        assert (found is None) is fits
        assert fits or "set MODEL alike" in (found or "")


TABLE = [
    # mine, theirs, share
    ({"sample": "1"}, {"sample": "1"}, True),
    ({"sample": "1"}, {"sample": "2"}, False),
    ({"sample": "1"}, {"full": "1"}, False),
    ({"commit": "1", "sample": "1"}, {"commit": "1"}, True),
    ({"commit": "1", "sample": "1"}, {"commit": "1", "sample": "2"}, False),
    ({"commit": "1", "sample": "1"}, {"commit": "2", "sample": "1"}, True),
    ({"commit": "1", "blobs": "1"}, {"commit": "2", "blobs": "1"}, True),
    ({"commit": "1", "blobs": "1"}, {"commit": "1", "blobs": "2"}, False),
    ({"blobs": "1", "sample": "1"}, {"blobs": "2", "sample": "1"}, False),
    ({"blobs": "1", "sample": "2"}, {"blobs": "1", "sample": "1"}, True),
    ({"full": "1", "sample": "1"}, {"full": "2", "sample": "1"}, False),
    ({"full": "1", "blobs": "1"}, {"full": "1", "blobs": "2"}, True),
    ({"commit": "1"}, {"commit": "2"}, False),
    ({"commit": "1"}, {"commit": "1"}, True),
    ({}, {"sample": "1"}, False),
    ({"sample": "1"}, {}, False),
    ({}, {}, False),
    ({"sample": "1"}, {"sample": "1", "unheard-of": "9"}, True),
]


@pytest.mark.parametrize(("mine", "theirs", "share"), TABLE)
def test_the_strongest_kind_that_both_know_decides_alone(
    mine: dict[str, str], theirs: dict[str, str], share: bool
) -> None:
    content = {Evidence(kind): text for kind, text in mine.items()}
    assert (mismatch(identity(content=content), identity().fields(), theirs) is None) is share


KNOWN = st.dictionaries(st.sampled_from(STRENGTH), st.sampled_from("12"))


@given(KNOWN, KNOWN)
def test_both_sides_come_to_the_same_end(
    one: Mapping[Evidence, str], other: Mapping[Evidence, str]
) -> None:
    def theirs(of: Mapping[Evidence, str]) -> dict[str, str]:
        return {str(kind): text for kind, text in of.items()}

    first, second = content_mismatch(one, theirs(other)), content_mismatch(other, theirs(one))
    assert (first is None) == (second is None)
    common = [kind for kind in STRENGTH if kind in one and kind in other]
    assert (first is None) == (bool(common) and one[common[0]] == other[common[0]])


def test_evidence_that_cannot_be_compared_is_named() -> None:
    theirs = identity(content={Evidence.COMMIT: "x"})
    assert against(theirs) == (
        "checkpoint content cannot be compared: I know sample, they know commit"
    )


class TestLazyContent:
    def test_only_what_decides_is_made(self) -> None:
        made: list[Evidence] = []

        def maker(kind: Evidence, text: str) -> str:
            made.append(kind)
            return text

        content = LazyContent(
            {kind: lambda kind=kind: maker(kind, "1") for kind in STRENGTH}  # type: ignore[misc]
        )
        assert set(content) == set(STRENGTH)
        assert made == []
        assert known(content) == {}
        assert content_mismatch(content, {"blobs": "1", "sample": "1"}) is None
        assert made == [Evidence.BLOBS]
        assert content_mismatch(content, {"blobs": "2"}) is not None
        assert made == [Evidence.BLOBS]
        assert known(content) == {"blobs": "1"}

    def test_nothing_is_made_where_nothing_can_be_compared(self) -> None:
        def fails() -> str:
            raise AssertionError("read for nothing")

        content = LazyContent({Evidence.SAMPLE: fails})
        assert content_mismatch(content, {"commit": "1"}) is not None
        assert content_mismatch(content, {}) is not None

    def test_kind_that_turns_out_not_to_be_had_gives_way_to_the_next(self) -> None:
        def fails() -> str:
            raise IdentityError("the file is torn")

        content = LazyContent(
            {Evidence.BLOBS: lambda: None, Evidence.FULL: fails, Evidence.SAMPLE: lambda: "1"}
        )
        assert content_mismatch(content, {"full": "2", "blobs": "2", "sample": "1"}) is None
        assert set(content) == {Evidence.SAMPLE}
        assert content.problems == ["the file is torn"]

    def test_what_is_learnt_does_not_replace_what_was_read(self) -> None:
        content = LazyContent({Evidence.SAMPLE: lambda: "mine"})
        assert content[Evidence.SAMPLE] == "mine"
        content.add({Evidence.SAMPLE: "theirs", Evidence.COMMIT: "c"})
        assert content.known == {Evidence.SAMPLE: "mine", Evidence.COMMIT: "c"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, ""),
        ({Evidence.COMMIT: "c0"}, "commit:c0"),
        ({Evidence.COMMIT: "c0", Evidence.BLOBS: "b"}, "blobs:b"),
        ({Evidence.BLOBS: "b", Evidence.SAMPLE: "s", Evidence.COMMIT: "c0"}, "sample:s"),
        ({Evidence.SAMPLE: "s", Evidence.FULL: "f"}, "full:f"),
    ],
)
def test_content_id_is_of_the_strongest_kind_that_any_copy_has(
    content: Mapping[Evidence, str], found: str
) -> None:
    assert content_id(content) == found
    assert content_id({str(kind): text for kind, text in content.items()}) == found


def test_strength_orders_every_kind() -> None:
    assert sorted(STRENGTH) == sorted(Evidence)
    for stronger, weaker in itertools.pairwise(STRENGTH):
        mine = {stronger: "1", weaker: "1"}
        assert content_mismatch(mine, {str(stronger): "1", str(weaker): "2"}) is None
        assert content_mismatch(mine, {str(stronger): "2", str(weaker): "1"}) is not None


def test_identity_is_replaced_not_changed() -> None:
    one = identity()
    other = replace(one, built=place())
    assert one.digest == identity().digest != other.digest
