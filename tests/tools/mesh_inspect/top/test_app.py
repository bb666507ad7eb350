"""The screen shows what the last look showed, does what the keys say, and says when it is old."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.tools.mesh_inspect.support import ALONE, holding, member
from tests.tools.mesh_inspect.top.playing import Player, played

from mesh_inspect.exits import InspectExit
from netloader.discovery.advert import Feed, Holding
from netmesh import Generation, Member, MemberId, Status

GIB = 1 << 30
HOSTILE = "[bold red]x[/] [link=http://x]y \x1b[2J\x07\u202e"


def at(number: int, *held: Holding, status: Status = Status.ALIVE) -> Member:
    one = member(*held, id=f"10.0.0.{number}:17946", status=status)
    return replace(one, generation=Generation((1_780_000_000_000 << 22) | number))


def held(number: int, model: str = "org/a", **changes: Any) -> Holding:
    values = {"endpoint": f"10.0.0.{number}:31000", "transports": ("tcp",), **changes}
    return holding(model, **values)


def feed(number: int, nbytes: int, rate: int) -> Feed:
    generation = (1_780_000_000_000 << 22) | number
    return Feed(endpoint=f"10.0.0.{number}:31000", generation=generation, nbytes=nbytes, rate=rate)


SOURCE = at(1, held(1))
LOADING = at(
    2,
    held(
        2,
        state="loading",
        total=8 * GIB,
        held=2 * GIB,
        rate=GIB,
        pulling=1,
        feeds=(feed(1, 2 * GIB, GIB),),
    ),
)
STALLED = at(3, held(3, "org/b"))
DEAD = at(4, held(4, state="loading", total=8 * GIB, held=GIB, rate=GIB), status=Status.DEAD)
MESH = (SOURCE, LOADING, replace(STALLED, status=Status.STALLED), DEAD)


def test_it_shows_the_members_and_the_last_look_replaces_the_one_before() -> None:
    async def scene(player: Player) -> None:
        assert "looking for a member" in player.text
        await player.look(SOURCE)
        assert "mesh prod  1 member  1 alive  1 ready" in player.lines[0]
        await player.look(*MESH)
        assert "4 members  2 alive  1 stalled  1 dead" in player.lines[0]
        assert "1.0GiB/s in 1 load  told by 10.0.0.1:17946  0s ago" in player.lines[1]
        assert player.lines[3].split()[:2] == ["MEMBER", "MODEL"]
        rows = [line.split() for line in player.lines[4:8]]
        assert [row[0] for row in rows] == [f"10.0.0.{n}:17946" for n in (1, 2, 3, 4)]
        assert [word for row in rows for word in row if word in ("ready", "loading", "stalled")]

    played(scene)


def test_transfers_have_a_list_of_their_own() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("2")
        loading, dead = (line.split() for line in player.lines[4:6])
        assert loading[0] == "10.0.0.2:17946"
        assert "25%" in loading and "1.0GiB/s" in loading
        assert loading[-3:] == ["10.0.0.1:17946", "6s", "pulling"]
        assert dead[0] == "10.0.0.4:17946" and dead[-2:] == ["-", "dead"]
        await player.press("tab", "tab", "tab")
        assert player.lines[3].split()[0] == "MEMBER"
        await player.press("shift+tab")
        assert player.lines[3].split()[0] == "TIME"

    played(scene)


def test_models_lead_to_their_members() -> None:
    async def scene(player: Player) -> None:
        half = replace(ALONE, tp_size=2, tp_rank=1)
        await player.look(*MESH, at(6, held(6, "org/half", place=half)))
        await player.press("3")
        rows = {line.split()[0]: line.split() for line in player.lines[4:7]}
        assert rows["org/a"][3] == "1" and rows["org/half"][3:5] == ["0", "tp0"]
        await player.press("down", "enter")
        assert player.lines[3].split()[0] == "MEMBER" and "/org/b target" in player.lines[2]
        assert player.lines[4].split()[0] == "10.0.0.3:17946"

    played(scene)


def test_before_anybody_has_answered_it_says_who_was_asked() -> None:
    async def scene(player: Player) -> None:
        await player.silence(
            "no member of mesh 'prod' answered within 3 s\n  asked: \x1b10.0.0.9:1"
        )
        assert player.lines[1].startswith("NOBODY ANSWERS yet  no member of mesh")
        assert player.lines[5].strip() == "asked: \\x1b10.0.0.9:1"
        await player.look()
        assert player.lines[4].strip() == "the mesh has no members"

    played(scene)


def test_keys_of_the_lists_do_nothing_on_a_page() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("enter", "2", "space", "p", "slash", "m")
        assert player.lines[0].strip() == "10.0.0.1:17946"
        await player.press("escape")
        assert player.lines[3].split()[0] == "MEMBER" and "PAUSED" not in player.text
        assert "*" not in player.lines[2]

    played(scene)


def test_a_screen_that_changes_its_size_shows_what_fits() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        assert player.pilot is not None
        for size in ((40, 10), (120, 40), (80, 24)):
            await player.pilot.resize_terminal(*size)
            await player.settled()
            await player.settled()
            assert all(len(line) <= size[0] for line in player.lines)
            rows = [line for line in player.lines if line.strip().startswith("10.0.0.4:17946")]
            assert rows and ("AGE" in player.text) == (size[0] > 80)
            assert player.lines[-1].startswith("q quit")

    played(scene)


@pytest.mark.parametrize("host", ["10.120.130.140", "[fd00:1234:5678:9abc::1]"])
@pytest.mark.parametrize("width", [60, 80, 100])
def test_addresses_are_whole_or_not_there(host: str, width: int) -> None:
    async def scene(player: Player) -> None:
        source = replace(SOURCE, id=MemberId(f"{host}:17946"))
        await player.look(source, replace(LOADING, id=MemberId(f"{host}:17947")))
        assert f" {host}:17946 " in player.text
        await player.press("2")
        assert f" {host}:17947 " in player.text and "pulling" in player.text
        assert ("FROM" in player.text) == (f" {host}:17946 " in player.lines[4])

    played(scene, (width, 24))


def test_silence_is_shown_with_the_picture_that_was_last_and_ends() -> None:
    async def scene(player: Player) -> None:
        await player.silence()
        assert "NOBODY ANSWERS yet" in player.text
        await player.look(*MESH)
        assert "NOBODY" not in player.text
        await player.silence()
        await player.silence()
        assert "NOBODY ANSWERS for 6s" in player.text and "10.0.0.4:17946" in player.text
        await player.look(*MESH)
        assert "NOBODY" not in player.text

    played(scene)


def test_a_picture_that_grows_old_is_silence_before_the_look_is_over() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        player.now_s += 2.0
        player.app.tick()
        await player.settled()
        assert "2s ago" in player.text
        player.now_s += 1.0
        player.app.tick()
        await player.settled()
        assert "NOBODY ANSWERS for 3s" in player.text

    played(scene)


def test_what_happens_is_told_below_the_lists_and_in_a_list() -> None:
    async def scene(player: Player) -> None:
        await player.look(LOADING, at(4, held(4)))
        assert "joined" not in player.text
        await player.look(SOURCE, LOADING, replace(at(4, held(4)), status=Status.DEAD))
        assert player.lines[-2].endswith("10.0.0.1:17946  joined")
        assert player.lines[-4].endswith("10.0.0.4:17946  is dead")
        await player.press("4")
        assert player.lines[4].endswith("is dead") and player.lines[6].endswith("joined")
        await player.press("enter")
        assert player.lines[0].strip() == "10.0.0.4:17946"

    played(scene)


def test_a_filter_keeps_rows_with_all_words() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("slash", *"ORG/A", "space", *"loading")
        assert "10.0.0.2:17946" in player.text and "10.0.0.1:17946  org" not in player.text
        await player.press("enter")
        assert "/ORG/A loading" in player.text
        await player.press("escape")
        assert "10.0.0.1:17946  org" in player.text
        await player.press("slash", *"nobody has this", "enter")
        assert "nothing matches the filter" in player.text

    played(scene)


def test_keys_typed_into_the_filter_are_no_commands() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("slash", *"qp12?", "enter")
        assert "/qp12?" in player.text and "PAUSED" not in player.text

    played(scene)


def test_it_sorts_by_each_column_and_back() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("greater_than_sign", "r")
        assert "MEMBERv" in player.lines[3] and player.lines[4].split()[0] == "10.0.0.4:17946"
        for _ in range(4):
            await player.press("greater_than_sign")
        assert "STATUS^" in player.lines[3] and player.lines[4].split()[0] == "10.0.0.4:17946"
        await player.press(*["less_than_sign"] * 5)
        assert player.lines[4].split()[0] == "10.0.0.1:17946"

    played(scene)


def test_the_cursor_stays_with_its_row_and_opens_it() -> None:
    async def scene(player: Player) -> None:
        await player.look(LOADING, DEAD)
        await player.press("down")
        await player.look(SOURCE, LOADING, DEAD)
        await player.press("enter")
        assert player.lines[0].strip() == "10.0.0.4:17946"
        await player.press("escape", "up", "enter")
        assert player.lines[0].strip() == "10.0.0.2:17946"
        assert "10.0.0.1:17946 (ready)  2.0GiB  1.0GiB/s" in player.text
        await player.look(SOURCE)
        assert "10.0.0.2:17946 is not in the mesh any more" in player.text

    played(scene)


def test_a_page_shows_everything_that_is_published() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        await player.press("enter")
        assert "sends to" in player.text and "10.0.0.2:17946  2.0GiB  1.0GiB/s" in player.text
        await player.press("end")
        assert '"transports": [' in player.text
        await player.press("q")
        assert "MEMBER" in player.text

    played(scene)


def test_two_marked_members_are_compared_both_ways() -> None:
    async def scene(player: Player) -> None:
        other = at(5, held(5, "org/a", place=replace(ALONE, tp_size=2, tp_rank=1)))
        await player.look(SOURCE, LOADING, other)
        await player.press("m")
        assert "mark two members with Space first" in player.text
        await player.press("space", "down", "space", "m")
        assert "org/a (target, tp0/1): fits" in player.text
        assert "what 10.0.0.1:17946 needs, from 10.0.0.2:17946" in player.text
        assert "is loading" in player.text
        await player.press("escape", "down", "space", "m")
        assert "tp_size: mine 1, theirs 2" in player.text

    played(scene)


def test_a_held_picture_stays_while_looks_go_on() -> None:
    async def scene(player: Player) -> None:
        await player.look(SOURCE)
        await player.press("p")
        await player.look(*MESH)
        await player.look(*MESH)
        assert "PAUSED, 2s old" in player.text and "10.0.0.2:17946" not in player.text
        await player.press("p")
        assert "PAUSED" not in player.text and "10.0.0.2:17946" in player.text

    played(scene)


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60), (20, 4)])
def test_every_screen_is_large_enough(size: tuple[int, int]) -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        for keys in (["2"], ["1"], ["enter"], ["escape"], ["question_mark"], ["escape"]):
            await player.press(*keys)
            assert all(len(line) <= size[0] for line in player.lines)
            assert len(player.lines) <= size[1]
        if size == (40, 10):
            assert "1.0GiB/s in 1 load" in player.lines[0]
            assert player.lines[2].split() == ["MEMBER", "MODEL", "STATUS"]
            assert "10.0.0.4:17946" in player.lines[6] and "dead" in player.lines[6]

    played(scene, size)


def test_the_text_of_others_is_neither_markup_nor_control() -> None:
    async def scene(player: Player) -> None:
        bad = held(1, HOSTILE, endpoint=HOSTILE, backend=HOSTILE, state="loading", total=1)
        bad = bad.changed(feeds=(Feed(endpoint=HOSTILE, generation=1),), awaits=(HOSTILE,))
        worker = member(bad, id=HOSTILE)
        await player.look(worker)
        for keys in (["2"], ["enter"], ["escape"], ["space"], ["slash", "x", "enter"]):
            await player.press(*keys)
            assert "[bold red]x[/] [link=http://x]y" in player.text
            assert all(line.isprintable() for line in player.lines)
        await player.silence(HOSTILE)
        assert "[bold red]x[/]" in player.lines[1]

    played(scene, (200, 40))


@pytest.mark.parametrize(("key", "status"), [("q", InspectExit.OK), ("ctrl+c", 130)])
def test_it_ends_as_it_is_told(key: str, status: int) -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        if status:
            await player.press("enter")  # Even from a page.
        await player.press(key)

    assert played(scene).app.return_value == status


def test_a_click_moves_the_cursor_opens_and_sorts() -> None:
    async def scene(player: Player) -> None:
        await player.look(*MESH)
        assert player.pilot is not None
        await player.pilot.click("#members", offset=(3, 2))
        await player.pilot.click("#members", offset=(3, 2))
        await player.settled()
        assert player.lines[0].strip() == "10.0.0.2:17946"
        await player.press("escape")
        await player.pilot.click("#members", offset=(3, 0))
        await player.settled()
        assert "MEMBER^" in player.lines[3]

    played(scene)
