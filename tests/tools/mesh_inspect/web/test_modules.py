"""The pure modules of the page: texts, numbers, places, edges, in the browser that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from mesh_inspect.view.rows import rows_of
from mesh_inspect.watching import Sight
from mesh_inspect.web.settings import WebSettings

from .browser import Complaints, call, new_page
from .served import Screen, served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with served(Screen(Sight(1.79e9, (), rows_of(()), None)), WebSettings()) as server:
        page = new_page(browser)
        complaints = Complaints(page)
        page.goto(f"http://{server.host}/")
        yield page
        page.context.close()
        assert complaints.found == []


def entry(**changes: object) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "10.0.0.1:17946",
        "generation": 1,
        "status": "alive",
        "model": "org/model",
        "given": None,
        "content": None,
        "role": "target",
        "layout": {"tp_size": 2, "tp_rank": 0, "pp_size": 1, "pp_rank": 0},
        "host": "10.0.0.1",
        "endpoint": "10.0.0.1:31000",
        "bytes": 100,
        "held_bytes": 0,
        "total_bytes": 0,
        "reads_storage": False,
        "sessions": {"serving": 0, "pulling": 0},
        "state": "ready",
        "reason": None,
        "accused_by": 0,
        "rate": 0,
        "feeds": [],
        "awaits": [],
    }
    return made | changes


def loading(id: str, *sources: tuple[str | None, int], **changes: object) -> dict[str, Any]:
    feeds = [
        {"id": source, "endpoint": f"{source}/e", "generation": 1, "bytes": 5, "rate": rate}
        for source, rate in sources
    ]
    rate = sum(rate for _, rate in sources)
    told: dict[str, Any] = {
        "id": id,
        "state": "loading",
        "total_bytes": 100,
        "feeds": feeds,
        "rate": rate,
    }
    return entry(**(told | changes))


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 1023, "1023 B"),
        ("bytes", 8_190_735_360, "7.6 GiB"),
        ("bytes", 1_048_575, "1.0 MiB"),
        ("bytes", 164_000_000, "156 MiB"),
        ("bytes", 2**63 - 1, "8.0 EiB"),
        ("bytes", -1, "-"),
        ("rate", 1 << 30, "1.0 GiB/s"),
        ("exactBytes", 8_190_735_360, "8,190,735,360 bytes"),
        ("age", 59.9, "59s"),
        ("age", 185, "3m05s"),
        ("age", 7652, "2h07m"),
        ("age", 356_400, "4d03h"),
        ("age", None, "-"),
        ("clockTime", 1.79e9, "14:13:20"),
        ("dateTime", 1.79e9, "2026-09-21 14:13:20"),
    ],
)
def test_numbers_as_people_read_them(page: Page, function: str, value: object, text: str) -> None:
    value = "NaN" if value is None else value
    assert call(page, "model/units.js", f"m.{function}(Number(a))", value) == text


def test_a_whole_is_only_what_is_complete(page: Page) -> None:
    shares = [[999, 1000], [1000, 1000], [0, 0], [7, 3]]
    told = call(page, "model/units.js", "a.map(([one, all]) => m.percent(one, all))", shares)
    assert told == ["99%", "100%", "0%", "100%"]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("org/model-7b", "org/model-7b"),
        ("名前 é", "名前 é"),
        ("a\u202eb\u2066c", r"a\u{202e}b\u{2066}c"),
        ("a\x00\x1b[31m\x7f", r"a\u{0}\u{1b}[31m\u{7f}"),
        ("a\u200b\u2028\u00a0\ufeff", r"a\u{200b}\u{2028}\u{a0}\u{feff}"),
        ("z" + "\u0300" * 40, "z" + "\u0300" * 3 + "..."),
        ("x" * 5000, "x" * 1100 + "..."),
        (17, ""),
        (None, ""),
    ],
)
def test_what_cannot_be_seen_is_written_out(page: Page, text: object, seen: str) -> None:
    assert call(page, "model/text.js", "m.shown(a)", text) == seen


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ready"),
        ({"state": "loading"}, "loading"),
        ({"state": None}, "alive"),
        ({"accused_by": 2}, "accused"),
        ({"accused_by": 2, "state": "loading"}, "loading"),
        ({"status": "stalled"}, "stalled"),
        ({"status": "dead", "state": "loading"}, "dead"),
        ({"status": "of a later release"}, "suspect"),
        ({"state": "of a later release"}, "unavailable"),
    ],
)
def test_the_one_word_about_a_member(page: Page, changes: dict[str, Any], state: str) -> None:
    assert call(page, "model/states.js", "m.stateOf(a)", entry(**changes)) == state


def test_a_member_with_two_models_is_one_with_the_worse_word(page: Page) -> None:
    draft = entry(role="draft", state="loading", total_bytes=50, held_bytes=20, rate=3)
    script = "(({state, main, held, total, bytes, rate, level}) => ({state, role: main.role, held, total, bytes, rate, level}))(m.memberOf(a))"  # noqa: E501
    assert call(page, "model/mesh.js", script, [draft, entry()]) == {
        "state": "loading",
        "role": "target",
        "held": 20,
        "total": 50,
        "bytes": 200,
        "rate": 3,
        "level": 0.4,
    }


@pytest.mark.parametrize(
    ("layout", "label"),
    [
        ({"tp_size": 8, "tp_rank": 3, "pp_size": 1, "ep_size": 1}, "tp3/8"),
        ({"tp_size": 2, "tp_rank": 0, "pp_size": 4, "pp_rank": 1}, "tp0/2 pp1/4"),
        ({"tp_size": None}, ""),
        (None, ""),
    ],
)
def test_ranks(page: Page, layout: object, label: str) -> None:
    assert call(page, "model/mesh.js", "m.rankLabel(a)", layout) == label


CHANGING = """(() => {
  const view = new m.MeshView();
  view.replace({mesh: "one", members: a.members});
  const shapes = [view.shape];
  for (const change of a.changes) { view.change(change); shapes.push(view.shape); }
  const {states, ...totals} = view.totals();
  return {ids: [...view.members.keys()], shapes, ...totals, states: Object.fromEntries(states)};
})()"""


def test_a_change_replaces_all_entries_of_a_member_and_forgets_the_gone(page: Page) -> None:
    told = call(
        page,
        "model/mesh.js",
        CHANGING,
        {
            "members": [entry(id="a"), entry(id="a", role="draft"), entry(id="b")],
            "changes": [
                {"changed": [loading("a", ("b", 7))], "gone": []},
                {"changed": [entry(id="c"), entry(id="a", host="elsewhere")], "gone": ["b"]},
            ],
        },
    )
    assert told["ids"] == ["a", "c"]
    # A member that only loads stays where it is.
    assert told["shapes"][1] == told["shapes"][0] and told["shapes"][2] > told["shapes"][1]
    assert told["states"] == {"ready": 2} and told["members"] == 2


EDGES = """(() => {
  const group = new Map();
  for (const one of a) group.set(one.id, [one]);
  return import("/static/model/mesh.js").then(({memberOf}) => {
    const members = new Map(a.map((one) => [one.id, memberOf([one])]));
    const edges = m.edgesOf(members);
    return {edges, summed: m.summed(edges, (id) => id[0])};
  });
})()"""


def test_edges_are_what_moves_and_who_waits(page: Page) -> None:
    members = [
        entry(id="s1"),
        loading("r1", ("s1", 10), (None, 3)),
        loading("r2", ("s1", 20), reads_storage=True, rate=25),
        loading("r3", awaits=["r2", "nobody"]),
        loading("r4", ("s1", 99), status="dead"),
    ]
    told = call(page, "model/edges.js", EDGES, members)
    seen = [(one["kind"], one["from"], one["to"], one["rate"]) for one in told["edges"]]
    assert seen == [
        ("transfer", "s1", "r2", 20),
        ("transfer", "s1", "r1", 10),
        ("storage", None, "r2", 5),
        ("transfer", None, "r1", 3),
        ("wait", "r2", "r3", 0),
    ]
    whole = [
        (one["kind"], one["from"], one["to"], one["rate"], one["many"]) for one in told["summed"]
    ]
    assert ("transfer", "s", "r", 30, 2) in whole and ("storage", None, "r", 5, 1) in whole


PLACES = """import("/static/model/mesh.js").then(({memberOf}) => {
  const members = a.members.map((one) => memberOf([one]));
  const options = {by: a.by, aspect: 2, withStorage: true};
  const places = m.placesOf(members, options);
  const again = m.placesOf(members.slice().reverse(), options);
  const boxes = [...places.groups, places.storage];
  const apart = (one, other) => one.x + one.width <= other.x || other.x + other.width <= one.x
    || one.y + one.height <= other.y || other.y + other.height <= one.y;
  return {
    groups: places.groups.map((group) => group.key),
    cells: places.cells.size,
    points: new Set([...places.cells.values()].map(({x, y}) => `${x},${y}`)).size,
    apart: boxes.every((one, i) => boxes.every((other, j) => i === j || apart(one, other))),
    inside: places.groups.every((group) => group.cells.every((cell) =>
      m.at(places, cell.x + 1, cell.y + 1).id === cell.id)),
    aspect: places.width / places.height,
    same: JSON.stringify([...places.cells]) === JSON.stringify([...again.cells]),
  };
})"""


@pytest.mark.parametrize("by", ["host", "model"])
@pytest.mark.parametrize("hosts", [1, 3, 40])
def test_every_member_has_a_place_of_its_own(page: Page, by: str, hosts: int) -> None:
    members = [
        entry(
            id=f"h{host}:{rank}",
            host=f"h{host}",
            model=f"org/m{host % 3}",
            layout={"tp_size": 8, "tp_rank": rank, "pp_size": 1, "ep_size": 1},
        )
        for host in range(hosts)
        for rank in range(8 if host % 2 else 3)
    ]
    told = call(page, "model/places.js", PLACES, {"members": members, "by": by})
    assert told["cells"] == told["points"] == len(members)
    assert told["apart"] and told["inside"] and told["same"]
    expected = {one[by if by == "host" else "model"] for one in members}
    assert len(told["groups"]) == len(expected)
    if by == "host":
        assert told["groups"] == [f"h{host}" for host in range(hosts)]
    if hosts == 40:
        assert 1 < told["aspect"] < 4


def test_zooming_keeps_the_point_under_the_pointer(page: Page) -> None:
    script = """(() => {
      const before = {x: 10, y: 20, zoom: 0.5};
      const after = m.zoomed(before, 1.7, 300, 200);
      const point = ({x, y, zoom}) => [x + 300 / zoom, y + 200 / zoom];
      return [point(before), point(after)];
    })()"""
    before, after = call(page, "model/camera.js", script)
    assert after == pytest.approx(before)


def test_what_a_camera_is_fitted_to_is_seen_whole(page: Page) -> None:
    script = """(() => {
      const camera = m.fitted({left: 5, top: 7, right: 4005, bottom: 907}, 1280, 560);
      return [(5 - camera.x) * camera.zoom, (7 - camera.y) * camera.zoom,
              (4005 - camera.x) * camera.zoom, (907 - camera.y) * camera.zoom];
    })()"""
    left, top, right, bottom = call(page, "model/camera.js", script)
    assert 0 < left < right < 1280 and 0 < top < bottom < 560


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["one", "two", "three"]),
        ("ORG/A", ["one", "two"]),
        ("org/a state:loading", ["two"]),
        ("-state:loading host:10", ["one", "three"]),
        ("rank:tp1", ["three"]),
        ("nobody", []),
        ("-", ["one", "two", "three"]),
    ],
)
def test_search(page: Page, query: str, found: list[str]) -> None:
    members = [
        entry(id="one", model="org/a"),
        entry(id="two", model="org/a", state="loading"),
        entry(id="three", model="org/b", layout={"tp_size": 2, "tp_rank": 1}),
    ]
    script = """import("/static/model/mesh.js").then(({memberOf}) => {
      const filter = {terms: m.parse(a.query), states: new Set(), model: null};
      return a.members.map((one) => memberOf([one])).filter((one) => m.passes(filter, one)).map((one) => one.id);
    })"""  # noqa: E501
    assert call(page, "model/filter.js", script, {"query": query, "members": members}) == found


def test_the_time_line_keeps_what_came_while_it_was_asked_for(page: Page) -> None:
    script = """(() => {
      const line = (at, kind) => ({at, kind, id: "x", text: "t"});
      const lines = new m.TimeLine();
      lines.add(line(1, "joined"));
      lines.replace([line(2, "joined"), line(3, "died")], [line(3, "died"), line(4, "ready")]);
      const all = lines.of(new Set()).map((one) => one.at);
      const deaths = lines.of(new Set(["deaths"])).map((one) => one.at);
      for (let at = 5; at < 2000; at += 1) lines.add(line(at, "loading"));
      return {all, deaths, kept: lines.lines.length, last: lines.lines.at(-1).at};
    })()"""
    assert call(page, "model/happenings.js", script) == {
        "all": [4, 3, 2],
        "deaths": [3],
        "kept": 500,
        "last": 1999,
    }


def test_every_kind_of_the_server_has_a_group(page: Page) -> None:
    from mesh_inspect.view.changes import KINDS

    groups = call(page, "model/happenings.js", "a.map(m.groupOf)", list(KINDS))
    assert "others" not in groups and set(groups) == {"joins", "deaths", "loads"}
    assert call(page, "model/happenings.js", "m.groupOf('of a later release')") == "others"


def test_every_line_falls_into_one_part_of_the_picture(page: Page) -> None:
    script = """m.histogram(a.map((at) => ({at, kind: "died"})), 100, 200, 10)
      .map((slot) => slot.deaths)"""
    told = call(page, "model/happenings.js", script, [99, 100, 109.9, 110, 200, 201])
    assert told == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_a_clock_follows_a_recording(page: Page) -> None:
    script = """(() => {
      let now = 0;
      const clock = new m.ShownClock(() => now);
      const seen = [];
      clock.hear(1000, null); now = 5; seen.push(clock.now());
      clock.hear(1000, {at: 1000, speed: 10, paused: false}); now = 6; seen.push(clock.now());
      clock.follow({at: 1500, speed: 10, paused: true}); now = 60; seen.push(clock.now());
      return seen;
    })()"""
    assert call(page, "model/clock.js", script) == [1005, 1010, 1500]
