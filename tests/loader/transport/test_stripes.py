"""How a message is cut over the connections of a group."""

from __future__ import annotations

import pytest

from netloader.transport.stripes import LANES, STRIPE_FROM, lane_tag, stripes

SIZES = (0, 1, 5000, STRIPE_FROM - 1, STRIPE_FROM, STRIPE_FROM + 1, 3 * STRIPE_FROM + 12_345)


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("tag", [0, 1, 7, (1 << 20) - 1])
def test_stripes_cover_a_message_once_and_no_two_share_a_page(nbytes: int, tag: int) -> None:
    parts = list(stripes(nbytes, tag))
    covered = [at for _, part in parts for at in (part.start, part.stop)]
    assert (covered[0], covered[-1]) == (0, nbytes)
    assert covered[1:-1:2] == covered[2:-1:2]
    assert all(start % 4096 == 0 for start in covered[2:-1:2])
    assert len({lane for lane, _ in parts}) == len(parts) == (1 if nbytes < STRIPE_FROM else LANES)


def test_small_messages_take_every_lane_in_turn() -> None:
    assert {lane for tag in range(LANES) for lane, _ in stripes(100, tag)} == set(range(LANES))


def test_a_tag_and_its_lane_can_be_told_from_what_gloo_is_given() -> None:
    given = {(lane_tag(tag, lane), lane) for tag in range(50) for lane in range(LANES)}
    assert len(given) == 50 * LANES
    assert all(tag % LANES == lane for tag, lane in given)
