"""Who is served without a key, and with which weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netloader.upstream.admission import Access, Offered, barred, is_loopback, unfit
from netloader.upstream.messages import UpstreamJoin

OPEN = Access(serves=True, has_key=False, around_key=False, beyond_host=False)
HELD = Offered(frozenset({"org/toy", "/models/toy"}), rank=1, tp=2, pp=1)
JOIN = UpstreamJoin(1, "/models/toy", 2, 1, 40000)

HERE, ELSEWHERE = "127.0.0.1", "10.0.0.7"


@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("around_key", [False, True])
@pytest.mark.parametrize("beyond_host", [False, True])
def test_nobody_is_served_unless_upstream_says_so(
    has_key: bool, around_key: bool, beyond_host: bool
) -> None:
    access = Access(False, has_key, around_key, beyond_host)
    assert "set UPSTREAM to serve" in (barred(HERE, access) or "")


def test_without_a_key_only_this_host_is_served() -> None:
    assert barred(HERE, OPEN) is None
    assert "its own host only" in (barred(ELSEWHERE, OPEN) or "")
    assert barred(ELSEWHERE, replace(OPEN, beyond_host=True)) is None


@pytest.mark.parametrize("host", [HERE, ELSEWHERE])
@pytest.mark.parametrize("beyond_host", [False, True])
def test_a_key_bars_everybody_until_the_operator_goes_around_it(
    host: str, beyond_host: bool
) -> None:
    access = replace(OPEN, has_key=True, beyond_host=beyond_host)
    assert "has a cluster key" in (barred(host, access) or "")
    assert barred(host, replace(access, around_key=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost"])
def test_these_are_this_host(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "::2", "::ffff:10.0.0.1", "127.0.0.1.example", "", "0.0.0.0"]
)
def test_these_may_be_others(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("name", sorted(HELD.names))
def test_any_name_of_the_model_will_do(name: str) -> None:
    assert unfit(replace(JOIN, model_path=name), HELD) is None


@pytest.mark.parametrize("int8_cache", [None, "dram", "hbm"])
def test_replicas_that_expect_loaded_weights_are_served(int8_cache: str | None) -> None:
    assert unfit(replace(JOIN, int8_cache=int8_cache), HELD) is None


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (replace(JOIN, device_id=0), "and you asked for (0, 2, 1)"),
        (replace(JOIN, tp=4), "(rank, tp, pp) are (1, 2, 1) here"),
        (replace(JOIN, pp=2), "and you asked for (1, 2, 2)"),
        (replace(JOIN, model_path="/models/other"), "the model here is /models/toy, org/toy"),
        (replace(JOIN, int8_cache="no"), "set it to dram or hbm"),
    ],
)
def test_what_differs_is_named(join: UpstreamJoin, words: str) -> None:
    refused = unfit(join, HELD)
    assert refused is not None and words in refused.reason


def test_a_model_that_would_arrive_in_part_is_refused() -> None:
    refused = unfit(JOIN, replace(HELD, lacks="1 parameter without dimensions (scale)"))
    assert refused is not None
    assert refused.reason == (
        "upstream's transfer would leave out 1 parameter without dimensions (scale)"
    )
