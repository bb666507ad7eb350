"""A member that slept (a stopped process, a suspended machine) proves itself alive at once, and
believes nothing that it knew before without asking."""

from __future__ import annotations

import pytest
from tests.mesh.core.town import Town

from netmesh.core.events import Publish
from netmesh.core.records import MemberId, Status, pack_advert

HOUR_S = 3600.0


def slept(seconds: float, *, members: int, dark: bool) -> tuple[Town, MemberId, MemberId, MemberId]:
    """A town in which one member has just woken. Meanwhile another one crashed, and a third has
    published something else. `dark`: its host slept too, so nothing even connected."""
    town = Town(checked=False)
    ids = town.grow(members)
    sleeper, dead, changed = ids[1:4]
    if dark:
        town.cut([sleeper])
        town.world.after(seconds - 1.0, town.mend)
    town.stall(sleeper, seconds)
    town.run(10.0)
    town.crash(dead)
    town.give(changed, Publish({"model": "other"}))
    town.run(seconds - 10.0)
    return town, sleeper, dead, changed


@pytest.mark.parametrize("dark", [False, True], ids=["process", "machine"])
@pytest.mark.parametrize(
    ("seconds", "members"),
    [
        (400.0, 5),
        pytest.param(HOUR_S, 10, marks=pytest.mark.soak),
        pytest.param(26 * HOUR_S, 5, marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
    ids=["minutes", "an hour", "longer than tombstones"],
)
def test_who_slept_is_back_within_a_second_and_knows_what_has_changed(
    seconds: float, members: int, dark: bool
) -> None:
    town, sleeper, dead, changed = slept(seconds, members=members, dark=dark)
    assert Status.DEAD in town.statuses(sleeper) or None in town.statuses(sleeper)
    assert town.until(lambda: town.statuses(sleeper) == {Status.ALIVE}, 1.0)
    # It holds whom it finds crashed for suspect first, as always.
    assert town.until(town.converged, 5.0)
    assert town.status(sleeper, dead) in (Status.DEAD, None)
    record = town.engine(sleeper).record(changed)
    assert record is not None
    assert record.advert == pack_advert({"model": "other"})


def test_who_slept_while_everybody_left_believes_nobody_for_long() -> None:
    town = Town(checked=False)
    first, sleeper, *others = town.grow(5)
    town.stall(sleeper, 400.0)
    town.run(10.0)
    for member in (first, *others):
        town.crash(member)
    town.run(390.0)

    def seen() -> set[Status | None]:
        return {town.status(sleeper, member) for member in (first, *others)}

    assert town.until(lambda: seen() == {Status.DEAD}, 60.0), seen()
