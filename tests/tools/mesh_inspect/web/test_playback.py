"""A recording in the live map: play, pause, seek and speed, by a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh_inspect.recording.lines import RecordingHead, head_line
from mesh_inspect.recording.reader import Recording
from mesh_inspect.recording.track import Track
from mesh_inspect.view.changes import happenings
from mesh_inspect.view.rows import rows_of
from mesh_inspect.web.broadcast import Broadcast
from mesh_inspect.web.chronicle import Chronicle
from mesh_inspect.web.playback import Playback
from mesh_inspect.web.playhead import FASTEST, SLOWEST, Playhead
from mesh_inspect.web.settings import WebSettings
from netloader.discovery.advert import Accused
from netmesh import Member, Status

from ..moving import MovingMesh
from ..support import holding, member
from .served import ServedMap, served

BEGIN = 1.79e9
FAST = WebSettings(period_s=0.01)

ONE = member(holding("org/a", endpoint="10.0.0.1:9"), id="10.0.0.1:1")
TWO = member(holding("org/a", endpoint="10.0.0.2:9", state="loading"), id="10.0.0.2:1")
TWO_READY = replace(TWO, version=2, advert=member(holding("org/a", endpoint="10.0.0.2:9")).advert)
TWO_DEAD = replace(TWO_READY, status=Status.DEAD)

NIGHT = {0: [ONE], 10: [ONE, TWO], 20: [ONE, TWO_READY], 60: [ONE, TWO_DEAD], 100: [ONE]}
"""By seconds."""


def recorded(path: Path, night: dict[int, list[Member]]) -> tuple[Recording, Chronicle]:
    track = Track(BEGIN)
    lines = [head_line(RecordingHead(mesh="m", at=BEGIN, program="test"))]
    lines += [line for at, who in night.items() if (line := track.seen(BEGIN + at, who))]
    path.write_bytes(b"".join(lines))
    chronicle = Chronicle()
    return Recording(path, chronicle.add), chronicle


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            return self._now

    def move(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def server(tmp_path: Path, clock: HandClock) -> Iterator[ServedMap]:
    recording, chronicle = recorded(tmp_path / "r", NIGHT)

    def scene(broadcast: Broadcast, settings: WebSettings) -> Playback:
        return Playback(recording, tuple(chronicle.happened), broadcast, clock, settings)

    with served(scene, FAST) as made:
        yield made


def order(server: ServedMap, body: bytes) -> dict[str, object]:
    answer = server.ask("/api/replay", server.own, method="POST", body=body)
    assert answer.status == 200, answer.body
    told: dict[str, object] = answer.json
    return told


def members(server: ServedMap) -> dict[str, str]:
    document = server.ask("/api/mesh").json
    return {one["id"]: one["status"] for one in document["members"]}


def test_it_begins_at_the_beginning_and_goes_on_with_the_clock(
    server: ServedMap, clock: HandClock
) -> None:
    with server.events() as events:
        first = next(events)
        assert first.data["replay"] == {
            "from": BEGIN, "to": BEGIN + 100, "at": BEGIN, "speed": 1.0, "paused": False,
        }  # fmt: skip
        assert [one["id"] for one in first.data["members"]] == [ONE.id]
        clock.move(10.0)
        change, joined, loads = next(events), next(events), next(events)
        assert change.data["at"] == BEGIN + 10
        assert [one["state"] for one in change.data["changed"]] == ["loading"]
        assert (joined.data["kind"], joined.data["at"]) == ("joined", BEGIN + 10)
        assert loads.data["kind"] == "loading"
        clock.move(10.0)
        assert next(events).data["changed"][0]["state"] == "ready"


def test_an_order_is_carried_out_when_it_is_answered(server: ServedMap, clock: HandClock) -> None:
    told = order(server, b'{"at": %d, "paused": true}' % (BEGIN + 70))
    assert (told["at"], told["paused"], told["speed"]) == (BEGIN + 70, True, 1.0)
    assert members(server) == {ONE.id: "alive", TWO.id: "dead"}
    clock.move(1000.0)
    assert members(server) == {ONE.id: "alive", TWO.id: "dead"}
    order(server, b'{"at": %d}' % (BEGIN + 5))
    assert members(server) == {ONE.id: "alive"}
    told = order(server, b'{"speed": 10, "paused": false}')
    assert told["at"] == BEGIN + 5
    clock.move(2.0)
    told = order(server, b'{"paused": true}')
    assert told["at"] == BEGIN + 25
    assert members(server) == {ONE.id: "alive", TWO.id: "alive"}


def test_a_jump_is_a_new_document_and_its_time_line(server: ServedMap) -> None:
    with server.events() as events:
        next(events)
        order(server, b'{"at": %d, "paused": true}' % (BEGIN + 65))
        again = next(events)
        assert (again.name, again.data["replay"]["at"]) == ("mesh", BEGIN + 65)
    kinds = [one["kind"] for one in server.ask("/api/happened").json["happened"]]
    assert kinds == ["joined", "loading", "ready", "died"]
    order(server, b'{"at": %d}' % (BEGIN + 15))
    kinds = [one["kind"] for one in server.ask("/api/happened").json["happened"]]
    assert kinds == ["joined", "loading"]


def test_it_pauses_at_the_end_and_plays_again_from_the_beginning(
    server: ServedMap, clock: HandClock
) -> None:
    with server.events() as events:
        next(events)
        clock.move(10_000.0)
        end = next(told for told in events if told.name == "replay")
        assert (end.data["at"], end.data["paused"]) == (BEGIN + 100, True)
    told = order(server, b'{"paused": false}')
    assert (told["at"], told["paused"]) == (BEGIN, False)
    assert members(server) == {ONE.id: "alive"}


@pytest.mark.parametrize(
    ("body", "changes", "status"),
    [
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b'{"speed": 0}', {}, 400),
        (b'{"speed": 1001}', {}, 400),
        (b'{"speed": NaN}', {}, 400),
        (b'{"speed": "1"}', {}, 400),
        (b'{"paused": 1}', {}, 400),
        (b'{"at": -1}', {}, 400),
        (b'{"at": 1e999}', {}, 400),
        (b'{"other": 1}', {}, 400),
        (b" " * 5000, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"Origin": "http://evil.example"}, 403),
        (b"{}", {"Origin": "null"}, 403),
    ],
)
def test_other_orders_are_refused(
    server: ServedMap, body: bytes, changes: dict[str, str], status: int
) -> None:
    answer = server.ask("/api/replay", server.own | changes, method="POST", body=body)
    assert answer.status == status
    assert server.ask("/api/mesh").json["replay"]["at"] == BEGIN


def test_an_order_without_an_origin_is_refused(server: ServedMap) -> None:
    headers = {"Content-Type": "application/json"}
    assert server.ask("/api/replay", headers, method="POST", body=b"{}").status == 403


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, clock: HandClock) -> None:
    recording, chronicle = recorded(tmp_path / "r", NIGHT)

    def scene(broadcast: Broadcast, settings: WebSettings) -> Playback:
        return Playback(recording, tuple(chronicle.happened), broadcast, clock, settings)

    with served(scene, replace(FAST, header_s=0.1)) as server, server.connect() as slow:
        head = f"POST /api/replay HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: 9\r\n"
        head += "".join(f"{name}: {said}\r\n" for name, said in server.own.items())
        slow.sendall(head.encode() + b"\r\n{")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_the_time_line_of_a_file_is_that_of_the_looks(tmp_path: Path) -> None:
    moving = MovingMesh(64, 16)
    night = {}
    for second in range(60):
        night[second] = list(moving.members())
        moving.advance()
    _, chronicle = recorded(tmp_path / "r", night)
    expected = set()
    for second in range(1, 60):
        before, after = (rows_of(night[at]) for at in (second - 1, second))
        found = happenings(before, after, BEGIN + second)
        expected |= {(one.at, one.kind, one.id, one.text) for one in found}
    assert {(one.at, one.kind, one.id, one.text) for one in chronicle.happened} == expected
    assert len({one.kind for one in chronicle.happened}) > 4


def test_an_accusation_in_a_file_befalls_the_accused(tmp_path: Path) -> None:
    process = Accused(endpoint="10.0.0.1:9", generation=int(ONE.generation))
    said = member(holding("org/a", endpoint="10.0.0.2:9", accuses=(process,)), id=TWO.id)
    accuser = replace(said, version=3)
    _, chronicle = recorded(tmp_path / "r", {0: [ONE, TWO_READY], 1: [ONE, accuser]})
    assert [(one.kind, one.id) for one in chronicle.happened] == [("accused", ONE.id)]


HEAD = Playhead(BEGIN, BEGIN + 100, BEGIN, 0.0)
orders = st.fixed_dictionaries(
    {
        "paused": st.none() | st.booleans(),
        "speed": st.none() | st.floats(SLOWEST, FASTEST),
        "at": st.none() | st.floats(0, 4e9),
    }
)


@given(st.lists(st.tuples(st.floats(0, 1e4), orders), max_size=12))
def test_the_playhead_stays_in_the_recording(
    steps: list[tuple[float, dict[str, float | None]]],
) -> None:
    head, now = HEAD, 0.0
    for seconds, order in steps:
        before = head.at(now)
        now += seconds
        assert before <= head.at(now) <= head.to
        head = head.steered(now, **order)  # type: ignore[arg-type]
        assert head.begin <= head.at(now) <= head.to
        if order["paused"]:
            assert head.at(now + 1e6) == head.at(now)
