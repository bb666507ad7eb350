from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.loader.support import identity

from netloader.discovery import advert
from netloader.discovery.advert import MAX_HOLDINGS, Holding
from netloader.identity.identity import known


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


def test_holdings_survive_the_mesh() -> None:
    holdings = (holding(nbytes=5, origin="peers", serving=2), holding(role="draft"))
    assert advert.decode(orjson.loads(orjson.dumps(advert.encode(holdings)))) == holdings


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
