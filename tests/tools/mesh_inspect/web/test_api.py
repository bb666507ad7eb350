"""What the server of the live map answers, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.mesh.support import until

from mesh_inspect.view.rows import rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.picture import PictureChange, picture_of
from mesh_inspect.web.settings import WebSettings
from netmesh import Member, MemberId, NoMeshError, Status

from ..moving import MovingMesh
from ..support import holding, member
from .served import MESH, Screen, ServedMap, served

FAST = WebSettings(period_s=0.01)

ONE = member(holding("org/a", endpoint="10.0.0.1:1", transports=("tcp",)), id="10.0.0.1:1")
TWO = member(holding("org/a", endpoint="10.0.0.2:1", transports=("tcp",)), id="10.0.0.2:1")
OTHER = member(holding("org/b", endpoint="10.0.0.3:1", transports=("hccl",)), id="10.0.0.3:1")


def sight(*members: Member, at: float = 1.79e9, silence: str | None = None) -> Sight:
    return Sight(at, members, rows_of(members), silence)


def older(one: Member, **changes: object) -> Member:
    return replace(one, age_s=one.age_s + 1, **changes)  # type: ignore[arg-type]


@pytest.fixture
def screen() -> Screen:
    return Screen(sight(ONE, TWO, OTHER))


@pytest.fixture
def server(screen: Screen, tmp_path: Path) -> Iterator[ServedMap]:
    (tmp_path / "secret").write_text("key")
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<!doctype html><title>map</title>")
    (static / "main.js").write_text("1;")
    (static / "link").symlink_to(tmp_path / "secret")
    with served(screen, replace(FAST, static=static)) as made:
        yield made


def test_the_document_has_every_member(server: ServedMap) -> None:
    document = server.ask("/api/mesh").json
    assert document["apiVersion"] == "mesh-inspect/v1" and document["mesh"] == MESH
    assert [one["id"] for one in document["members"]] == [ONE.id, TWO.id, OTHER.id]
    assert document["members"][0]["age_s"] == 125.25
    assert (document["replay"], document["silence"], document["at"]) == (None, None, 1.79e9)


def test_answers_are_packed_for_those_who_understand_it(server: ServedMap) -> None:
    plain = server.ask("/api/mesh")
    packed = server.ask("/api/mesh", {"Accept-Encoding": "br, gzip;q=1.0"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2
    refused = server.ask("/api/mesh", {"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


def test_a_member_is_told_with_all_that_it_publishes(server: ServedMap) -> None:
    told = server.ask(f"/api/members/{ONE.id}").json
    assert told["advert"] == ONE.advert
    assert (told["status"], told["incarnation"], told["version"]) == ("alive", 0, 1)
    assert [one["model"] for one in told["entries"]] == ["org/a"]
    assert server.ask("/api/members/10.9.9.9:1").status == 404


def test_two_workers_are_told_why_they_do_or_do_not_match(server: ServedMap) -> None:
    (fits,) = server.ask(f"/api/match?replica={ONE.id}&source={TWO.id}").json["workers"]
    assert (fits["model"], fits["fits"], fits["reasons"]) == ("org/a", True, [])
    (not_so,) = server.ask(f"/api/match?replica={ONE.id}&source={OTHER.id}").json["workers"]
    assert not not_so["fits"] and len(not_so["reasons"]) == 1
    assert server.ask(f"/api/match?replica={ONE.id}").status == 400
    assert server.ask(f"/api/match?replica={ONE.id}&source=x").status == 404


def test_a_reader_is_told_what_changes_and_nothing_else(server: ServedMap, screen: Screen) -> None:
    with server.events() as events:
        first = next(events)
        assert first.name == "mesh" and len(first.data["members"]) == 3
        # Age alone is no change.
        screen.show(sight(older(ONE), older(TWO), older(OTHER)))
        screen.looked(3)
        screen.show(sight(older(ONE), older(TWO, status=Status.STALLED), at=1.79e9 + 9))
        change, *happened = [next(events) for _ in range(3)]
        assert change.name == "change" and change.data["at"] == 1.79e9 + 9
        assert [one["id"] for one in change.data["changed"]] == [TWO.id]
        assert change.data["changed"][0]["status"] == "stalled"
        assert change.data["gone"] == [OTHER.id]
        assert {(one.name, one.data["kind"], one.data["id"]) for one in happened} == {
            ("happened", "stalled", TWO.id),
            ("happened", "forgotten", OTHER.id),
        }
    lines = server.ask("/api/happened").json["happened"]
    assert [one["kind"] for one in lines] == [one.data["kind"] for one in happened]


def test_a_packed_stream_says_the_same(server: ServedMap, screen: Screen) -> None:
    with server.events(packed=True) as events:
        assert len(next(events).data["members"]) == 3
        screen.show(sight(ONE))
        change = next(events)
        assert sorted(change.data["gone"]) == [TWO.id, OTHER.id]


def test_silence_is_told_and_so_is_its_end(server: ServedMap, screen: Screen) -> None:
    with server.events() as events:
        next(events)
        screen.show(sight(ONE, TWO, OTHER, silence="nobody answers"))
        told = next(events)
        assert (told.name, told.data["text"]) == ("silence", "nobody answers")
        document = server.ask("/api/mesh").json
        assert document["silence"] == "nobody answers" and len(document["members"]) == 3
        screen.show(sight(ONE, TWO, OTHER))
        told = next(events)
        assert (told.name, told.data["text"]) == ("silence", None)


def test_a_mesh_that_nobody_has_seen_yet_is_shown_when_it_comes(tmp_path: Path) -> None:
    screen = Screen(NoMeshError("m", ("10.0.0.1:1",), 3.0))
    with served(screen, FAST) as server, server.events() as events:
        first = next(events)
        assert first.data["members"] == [] and "no member" in first.data["silence"]
        screen.show(sight(ONE, TWO))
        again = next(events)
        # Nobody has joined: they were there.
        assert again.name == "mesh" and len(again.data["members"]) == 2
        assert again.data["silence"] is None


def test_a_reader_that_comes_back_gets_what_it_missed(server: ServedMap, screen: Screen) -> None:
    with server.events() as events:
        last = next(events)
    screen.show(sight(ONE, TWO))
    with server.events() as events:
        next(events)  # Others watch meanwhile.
        with server.events({"Last-Event-ID": last.id}) as again:
            assert next(again).name == "change"
    for unknown in ("", "0-0", f"{last.id}9", f"{last.id.partition('-')[0]}-x"):
        with server.events({"Last-Event-ID": unknown}) as again:
            assert next(again).name == "mesh"


def test_a_reader_too_far_behind_gets_a_new_document(tmp_path: Path) -> None:
    screen = Screen(sight(ONE, TWO))
    with served(screen, replace(FAST, backlog=2)) as server, server.events() as events:
        last = next(events)
        for turn in range(5):
            screen.show(
                sight(
                    ONE,
                    replace(
                        TWO,
                        version=turn + 2,
                        incarnation=turn,
                        status=(Status.STALLED, Status.ALIVE)[turn % 2],
                    ),
                )
            )
            assert next(events).name in ("change", "happened")
            screen.looked(2)
        with server.events({"Last-Event-ID": last.id}) as again:
            assert next(again).name == "mesh"


def test_one_look_a_period_however_many_watch_and_none_for_nobody(screen: Screen) -> None:
    with served(screen, replace(FAST, grace_s=0.0)) as server:
        with server.events() as one, server.events() as two, server.events() as three:
            assert len({next(one).id, next(two).id, next(three).id}) == 1
            screen.looked(3)

        def quiet() -> bool:
            looks = screen.looks
            for _ in range(10):
                server.ask("/")
            return screen.looks == looks

        until(quiet)
        looks = screen.looks
        assert server.ask("/api/mesh").status == 200
        assert screen.looks > looks


def test_readers_hear_of_the_end(screen: Screen) -> None:
    with served(screen, FAST) as server:
        reader = server.connect()
        reader.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        heard = b""
        while b"event: mesh" not in heard:
            heard += reader.recv(1 << 16)
    # The server has ended, and did not wait for those who watched.
    with reader:
        while part := reader.recv(1 << 16):
            heard += part
    assert heard.endswith(b"0\r\n\r\n")


def test_readers_are_bounded(screen: Screen) -> None:
    with (
        served(screen, replace(FAST, readers=2)) as server,
        server.events() as one,
        server.events() as two,
    ):
        assert next(one).name == next(two).name == "mesh"
        refused = server.ask("/api/events")
        assert refused.status == 503 and "close another page" in refused.body.decode()
        assert refused.headers["retry-after"] == "10"


def test_the_page_and_its_files(server: ServedMap) -> None:
    page = server.ask("/")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    script = server.ask("/static/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = server.ask("/static/main.js", {"If-None-Match": script.headers["etag"]})
    assert again.status == 304


@pytest.mark.parametrize(
    "path",
    [
        "/static/../secret",
        "/static/%2e%2e/secret",
        "/static/..%2fsecret",
        "/static/%2e%2e%2fsecret",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/link",
        "/static/..\\secret",
        "/static/%00",
        "/static/" + "a" * 5000,
        "/static/",
        "/static",
        "/api/other",
        "/API/mesh",
    ],
)
def test_no_other_file_is_served(server: ServedMap, path: str) -> None:
    answer = server.ask(path)
    assert answer.status in (404, 405) and b"key" not in answer.body


def test_only_what_is_asked_for_is_done(server: ServedMap) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert server.ask("/api/mesh", server.own, method=method).status == 405
    assert server.ask("/api/replay", server.own, method="POST", body=b"{}").status == 404


def test_a_change_costs_what_has_changed() -> None:
    """Ten transfers among four hundred members."""
    moving = MovingMesh(400, 10)

    def now() -> Sight:
        members = moving.members()
        return Sight(moving.now_s, members, rows_of(members))

    screen = Screen(now())
    with served(screen, FAST) as server, server.events(packed=True) as events:
        assert len(next(events).data["members"]) == 400
        moving.advance()
        screen.show(now())
        change = next(events)
        assert len(change.data["changed"]) == 10
        feeds = [feed for one in change.data["changed"] for feed in one["feeds"]]
        assert len(feeds) >= 10 and all(feed["id"] is not None for feed in feeds)


def test_between_two_events_the_end_of_a_connection_can_be_noticed() -> None:
    broadcast = Broadcast(MESH, FAST)
    broadcast.show(picture_of(sight(ONE)), PictureChange())

    async def read() -> None:
        noticed: list[int] = []
        with broadcast.reader(None) as reader:
            parts = reader.parts(compressed=False)
            await anext(parts)
            assert b"event: mesh" in await anext(parts)
            for number in range(10):
                broadcast.tell("happened", {"number": number})
            await anext(parts)
            asyncio.get_running_loop().call_soon(noticed.append, 1)
            await anext(parts)
            assert noticed == [1]
            await parts.aclose()

    asyncio.run(read())


def test_what_a_hostile_member_publishes_is_plain_ascii(screen: Screen, server: ServedMap) -> None:
    evil = member(holding("\x1b]0;owned\x07\x9b\x7fé\U0001f600"), id="10.0.0.4:1")
    screen.show(sight(evil))
    body = server.ask("/api/mesh").body
    assert body.isascii() and b"\x1b" not in body and b"\x7f" not in body
    assert (
        server.ask(f"/api/members/{MemberId(evil.id)}")
        .json["entries"][0]["model"]
        .endswith("é\U0001f600")
    )
