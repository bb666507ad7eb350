"""Looks that go on while members restart and nobody answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from mesh_inspect.looking import Inquiry
from mesh_inspect.watching import KEPT_S, Sight, sights
from netmesh import Generation, NoMeshError, SettingsError, Status

from .support import GENERATION, PlayedMesh, holding, member

ONE = member(holding("a"), id="10.0.0.1:1")
TWO = member(holding("b"), id="10.0.0.2:1")


def seen(mesh: PlayedMesh, count: int) -> list[Sight]:
    looks = sights(Inquiry(mesh.means))
    found = list(islice(looks, count))
    looks.close()  # type: ignore[attr-defined]
    assert mesh.closed == 1
    return found


def test_one_look_a_second_over_one_connection() -> None:
    mesh = PlayedMesh((ONE, TWO))
    found = seen(mesh, 4)
    assert mesh.asked_s == [3.0] * 4
    assert [round(one.at - found[0].at, 3) for one in found] == [0, 1, 2, 3]
    assert all(one.silence is None for one in found)
    assert [row.model for row in found[0].rows] == ["a", "b"]


def test_silence_is_named_and_shows_what_was_seen_last() -> None:
    mesh = PlayedMesh((ONE,), None, SettingsError("MESH_KEY_FILE", "k", "a file"), (ONE, TWO))
    first, silent, broken, again = seen(mesh, 4)
    assert silent.members == first.members and "no member" in str(silent.silence)
    assert "MESH_KEY_FILE" in str(broken.silence)
    assert again.silence is None and len(again.members) == 2


def test_nobody_at_first_is_an_error() -> None:
    with pytest.raises(NoMeshError):
        next(sights(Inquiry(PlayedMesh(None).means)))


def test_a_member_that_has_just_joined_does_not_make_the_others_vanish() -> None:
    mesh = PlayedMesh((ONE, TWO), (TWO,), (TWO,), (ONE, TWO))
    assert [len(one.members) for one in seen(mesh, 4)] == [2, 2, 2, 2]
    mesh = PlayedMesh((ONE, TWO), (TWO,))
    counts = [len(one.members) for one in seen(mesh, int(KEPT_S) + 3)]
    assert counts == [2] * (int(KEPT_S) + 1) + [1, 1]


def test_a_forgotten_member_is_gone_at_once() -> None:
    dead = replace(ONE, status=Status.DEAD)
    assert [len(one.members) for one in seen(PlayedMesh((dead, TWO), (TWO,)), 2)] == [2, 1]


def test_old_news_takes_nothing_back_for_a_while() -> None:
    news = replace(ONE, version=2, advert=member(holding("new")).advert)
    mesh = PlayedMesh((news,), (ONE,))
    models = [one.rows[0].model for one in seen(mesh, int(KEPT_S) + 3)]
    assert models == ["new"] * (int(KEPT_S) + 1) + ["a", "a"]
    earlier = replace(ONE, generation=Generation(GENERATION - 1))
    assert seen(PlayedMesh((ONE,), (earlier,)), 2)[1].members == (ONE,)
    dead = replace(ONE, status=Status.DEAD)
    (still,) = seen(PlayedMesh((news,), (dead,)), 2)[1].members
    assert (still.status, still.version) == (Status.DEAD, 2)
    # A suspicion is news, and so is the refutation.
    suspect = replace(ONE, status=Status.SUSPECT)
    statuses = [one.members[0].status for one in seen(PlayedMesh((ONE,), (suspect,), (ONE,)), 3)]
    assert statuses == [Status.ALIVE, Status.SUSPECT, Status.ALIVE]
