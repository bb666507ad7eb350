from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.loader.support import identity

from netloader.discovery import advert
from netloader.discovery.advert import (
    MAX_ACCUSED,
    MAX_AWAITS,
    MAX_CONTENT,
    MAX_FEEDS,
    MAX_HOLDINGS,
    MAX_NAMES,
    MAX_TEXT,
    MAX_TRANSPORTS,
    Accused,
    Feed,
    Holding,
)
from netloader.identity.identity import MAX_FIELDS, known


def holding(**changes: object) -> Holding:
    who = identity()
    values: dict[str, object] = {
        "role": "target",
        "state": "ready",
        "identity": who.digest,
        "names": who.names.travelling(),
        "fields": who.fields(),
        "content": known(who.content),
        "endpoint": "127.0.0.1:1024",
        "backend": "gloo",
    }
    return Holding.model_validate(values | changes)


def accused(generation: int) -> Accused:
    return Accused(endpoint="10.0.0.2:2000", generation=generation)


def feed(number: int, **changes: object) -> Feed:
    values = {"endpoint": "10.0.0.2:2000", "generation": number, "nbytes": 7, "rate": 3}
    return Feed.model_validate(values | changes)


def test_holdings_survive_the_mesh() -> None:
    loading = holding(state="loading", rate=9, feeds=(feed(1), feed(2)), awaits=("10.0.0.3:1",))
    holdings = (holding(nbytes=5, origin="peers", serving=2), holding(role="draft"), loading)
    assert advert.decode(orjson.loads(orjson.dumps(advert.encode(holdings)))) == holdings


@pytest.mark.parametrize(
    ("state", "sharing", "serves"),
    [
        ("ready", False, True),
        ("loading", False, False),
        ("loading", True, True),
        ("unavailable", True, False),
    ],
)
def test_who_may_be_asked(state: str, sharing: bool, serves: bool) -> None:
    assert holding(state=state, sharing=sharing).serves == serves


def test_older_members_see_nothing_new_in_who_shares_nothing() -> None:
    made = holding(state="loading").model_dump(mode="json")
    assert not {"sharing", "held", "storage", "rate", "feeds", "awaits"} & set(made)
    assert advert.decode({"holdings": [made]}) == (holding(state="loading"),)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"model": "chosen", "known": "org/m", "given": "/m"}, "chosen"),
        ({"model": "", "known": "org/m", "given": "/m"}, "org/m"),
        ({"given": "/m"}, "/m"),
        ({}, ""),
    ],
)
def test_the_name_shown_is_the_one_that_people_know(names: dict[str, str], shown: str) -> None:
    assert holding(names=names).model == shown


@pytest.mark.parametrize(
    "change",
    [{"state": "sleeping"}, {"role": "both"}, {"serving": -1}, {"fields": 5}, {"accuses": [{}]}],
)
def test_malformed_holding_is_left_out_and_the_others_read(change: dict[str, object]) -> None:
    made = advert.encode((holding(),))
    listed = made["holdings"]
    assert isinstance(listed, list)
    bad = dict(holding().model_dump()) | change
    assert advert.decode({"holdings": [bad, *listed]}) == (holding(),)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": -1},
        {"rate": 1 << 64},
        {"rate": 0.5},
        {"rate": "fast"},
        {"feeds": "everybody"},
        {"feeds": {"endpoint": "10.0.0.2:2000"}},
        {"feeds": [None]},
        {"feeds": [{"endpoint": "10.0.0.2:2000"}]},
        {"feeds": [{"endpoint": "x" * (MAX_TEXT + 1), "generation": 1}]},
        {"feeds": [{"endpoint": "10.0.0.2:2000", "generation": -1}]},
        {"feeds": [{"endpoint": "10.0.0.2:2000", "generation": 1, "rate": 1e300}]},
        {"feeds": [{"endpoint": "10.0.0.2:2000", "generation": 1, "nbytes": -5}]},
        {"feeds": [{"endpoint": "10.0.0.2:2000", "generation": 1}] * (MAX_FEEDS + 1)},
        {"awaits": "10.0.0.3:1"},
        {"awaits": [7]},
        {"awaits": ["x" * (MAX_TEXT + 1)]},
        {"awaits": ["x"] * (MAX_AWAITS + 1)},
    ],
)
def test_progress_that_makes_no_sense_costs_the_holding(change: dict[str, object]) -> None:
    bad = holding(state="loading").model_dump(mode="json") | change
    assert advert.decode({"holdings": [bad]}) == ()


def test_a_feed_may_say_more_than_is_known_now() -> None:
    made = holding(state="loading", feeds=(feed(1),)).model_dump(mode="json")
    made["feeds"][0]["carried"] = "tcp"
    assert advert.decode({"holdings": [made]})[0].feeds == (feed(1),)


def test_unknown_fields_are_ignored() -> None:
    data = holding().model_dump(mode="json") | {"later": 1}
    assert advert.decode({"holdings": [data]}) == (holding(),)


def test_no_more_than_a_few_holdings_are_read() -> None:
    made = advert.encode([holding()] * (MAX_HOLDINGS + 5))
    assert len(advert.decode(made)) == MAX_HOLDINGS


@given(
    st.dictionaries(
        st.sampled_from(["schema", "holdings", "x"]),
        st.recursive(
            st.none() | st.integers(-5, 5) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=5,
        ),
    )
)
def test_somebody_elses_advert_holds_nothing(theirs: dict[str, object]) -> None:
    assert advert.decode(theirs) == ()  # type: ignore[arg-type]


LONG = "\N{GREEK SMALL LETTER ALPHA}" * (MAX_TEXT + 1)
CUT = LONG[: MAX_TEXT - 3] + "..."


class TestFitted:
    """Whatever a worker says of itself, readers find its holding."""

    @pytest.mark.parametrize(
        ("said", "read"),
        [
            ({"reason": LONG}, {"reason": CUT}),
            ({"reason": LONG[:MAX_TEXT]}, {"reason": LONG[:MAX_TEXT]}),
            ({"identity": LONG}, {"identity": CUT}),
            ({"backend": LONG}, {"backend": CUT}),
            ({"names": {"model": LONG, "given": "m"}}, {"names": {"model": CUT, "given": "m"}}),
            (
                {"names": {str(at): "m" for at in range(MAX_NAMES + 1)}},
                {"names": {str(at): "m" for at in range(MAX_NAMES)}},
            ),
            ({"fields": {"config: a": LONG, "rank": 1}}, {"fields": {"config: a": CUT, "rank": 1}}),
            (
                {"fields": {str(at): at for at in range(MAX_FIELDS + 1)}},
                {"fields": {str(at): at for at in range(MAX_FIELDS)}},
            ),
            ({"content": {"sample": LONG, "full": "f"}}, {"content": {"full": "f"}}),
            (
                {"content": {str(at): "e" for at in range(MAX_CONTENT + 1)}},
                {"content": {str(at): "e" for at in range(MAX_CONTENT)}},
            ),
            ({"transports": ("hccl", LONG, "gloo")}, {"transports": ("hccl", "gloo")}),
            ({"transports": ("a",) * 99}, {"transports": ("a",) * MAX_TRANSPORTS}),
            ({"carried": (LONG, *("a",) * 99)}, {"carried": ("a",) * MAX_TRANSPORTS}),
            ({"endpoint": LONG}, {"endpoint": ""}),
            ({"fabric": "rail-1"}, {"fabric": "rail-1"}),
            (
                {"accuses": tuple(accused(at) for at in range(MAX_ACCUSED + 3))},
                {"accuses": tuple(accused(at) for at in range(3, MAX_ACCUSED + 3))},
            ),
            (
                {"accuses": (accused(1), {"endpoint": LONG, "generation": 2})},
                {"accuses": (accused(1),)},
            ),
            (
                {"feeds": tuple(feed(at) for at in range(MAX_FEEDS + 3))},
                {"feeds": tuple(feed(at) for at in range(MAX_FEEDS))},
            ),
            (
                {"feeds": ({"endpoint": LONG, "generation": 2}, feed(1))},
                {"feeds": (feed(1),)},
            ),
            ({"awaits": ("m", LONG, *("n",) * 99)}, {"awaits": ("m", *("n",) * (MAX_AWAITS - 1))}),
        ],
        ids=lambda values: "-".join(values),
    )
    def test_every_bounded_field_is_read_as_it_was_fitted(
        self, said: dict[str, object], read: dict[str, object]
    ) -> None:
        for made in (Holding.fitted(dict(holding()) | said), holding().changed(**said)):
            (found,) = advert.decode(orjson.loads(orjson.dumps(advert.encode((made,)))))
            assert found == holding(**read)

    def test_every_bounded_field_has_a_relative_above(self) -> None:
        bounded = {
            name
            for name, field in Holding.model_fields.items()
            if any(text in str(field.annotation) for text in ("str", "Accused", "Feed"))
        }
        assert bounded - {"role", "state", "origin"} == {
            "reason",
            "identity",
            "backend",
            "names",
            "fields",
            "content",
            "endpoint",
            "fabric",
            "transports",
            "carried",
            "accuses",
            "feeds",
            "awaits",
        }

    @pytest.mark.parametrize("wrong", [{"state": "asleep"}, {"serving": -1}, {"reason": 5}])
    def test_what_no_cut_can_mend_is_not_said(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            holding().changed(**wrong)

    def test_cut_fields_equal_nobodys(self) -> None:
        theirs = holding(fields=identity().fields()).changed(fields={"dtype": LONG})
        assert theirs.fields != {"dtype": LONG}
