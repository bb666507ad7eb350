"""The page of the live map in a browser, over a mesh that is what a test says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from netmesh import Status

from ..support import GENERATION, holding, member
from .conftest import OpenPage
from .played_page import (
    FAST,
    MODEL,
    NOW,
    address,
    chip,
    current,
    newer,
    options,
    point_of,
    sight,
    source,
    swarm,
    to_member,
)
from .served import Screen, served

pytestmark = pytest.mark.browser


def test_every_member_is_told_with_its_state(page: Page) -> None:
    told = options(page)
    assert len(told) == 9
    assert "Qwen3-8B, tp0/2, ready, host 10.0.0.1, 10.0.0.1:17946" in told
    assert "Qwen3-8B, tp0/2, loading, 42% of 1000 MiB, host 10.0.0.3, 10.0.0.3:17946" in told
    assert "no model, alive, host 10.0.0.9, 10.0.0.9:17946" in told
    counts = {"ready": 2, "loading": 3, "stalled": 1, "dead": 1, "unavailable": 1, "alive": 1}
    for state, many in counts.items():
        expect(chip(page, state).locator(".many")).to_have_text(str(many))
    expect(page.locator("#rate")).to_have_text("110 MiB/s")
    expect(page.locator("#rate")).to_have_attribute("title", "115,343,360 bytes/s")
    expect(page.locator("#transfers")).to_have_text("2 transfers, 1 storage read")
    # The dead do not count as members.
    expect(page).to_have_title("served: 8 members, 2 ready, 3 loading - mesh-inspect")


def test_what_is_drawn_has_the_colours_of_the_states(page: Page) -> None:
    """The canvas is no accessible thing, so its pixels are asked for the page's own colours."""
    script = """() => {
      const style = getComputedStyle(document.documentElement);
      const seen = new Set();
      for (const id of ["rest", "moving"]) {
        const canvas = document.getElementById(id);
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        for (let at = 0; at < data.length; at += 4) {
          if (data[at + 3] === 255) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
        }
      }
      const names = ["ready", "loading", "stalled", "dead", "unavailable", "storage", "transfer"];
      return [...names, "accused"].filter((name) => {
          const [red, green, blue] = style.getPropertyValue(`--${name}`).trim().slice(1)
            .match(/../g).map((part) => parseInt(part, 16));
          return seen.has(`${red},${green},${blue}`);
        });
    }"""
    drawn = ["ready", "loading", "stalled", "dead", "unavailable", "storage", "transfer"]
    assert page.evaluate(script) == drawn


def test_keys_lead_to_everything_a_member_publishes_and_back(page: Page) -> None:
    to_member(page, address(3))
    page.keyboard.press("Enter")
    panel = page.locator("#panel")
    expect(page.locator("#panel-heading")).to_be_focused()
    expect(panel.locator("#panel-title")).to_have_text("Qwen3-8B")
    expect(panel.locator("#panel-state")).to_have_text("loading")
    expect(panel.locator("#tank-bytes")).to_have_text("420 MiB of 1000 MiB")
    expect(panel.locator("#tank-bytes")).to_have_attribute(
        "title", "440,401,920 of 1,048,576,000 bytes"
    )
    expect(panel.locator("#tank-rate")).to_have_text("60.0 MiB/s, about 9s left")
    expect(panel.locator("#flow-from-list li")).to_have_count(2)
    expect(panel.locator("#flow-from-list li").first).to_contain_text("210 MiB")
    # 63 bits, of which a double keeps 53.
    expect(panel.locator("#record")).to_contain_text(f"generation {int(GENERATION)}")
    panel.locator("summary").click()
    advert = json.loads(panel.locator("#advert").inner_text())
    assert advert["holdings"][0]["held"] == 420 << 20
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator("#members")).to_be_focused()


def test_a_source_names_whom_it_feeds_and_leads_there(page: Page) -> None:
    to_member(page, address(1))
    page.keyboard.press("Enter")
    fed = page.locator("#flow-fed-list button")
    expect(fed).to_have_text([address(3)])
    fed.click()
    expect(page.locator("#panel-state")).to_have_text("loading")
    expect(page.locator("#facts")).to_contain_text(address(3))


def test_who_waits_says_for_whom(page: Page) -> None:
    to_member(page, address(5))
    page.keyboard.press("Enter")
    expect(page.locator("#flow-waits-list button")).to_have_text([address(4)])


def test_two_members_are_judged_in_both_directions(page: Page) -> None:
    to_member(page, address(1))
    page.keyboard.press("Enter")
    page.keyboard.press("m")
    expect(page.locator("#picking")).to_be_visible()
    to_member(page, address(3))
    page.keyboard.press("Enter")
    expect(page.locator("#pair-a-name")).to_have_text(address(1))
    expect(page.locator("#pair-b-name")).to_have_text(address(3))
    expect(page.locator("#match-ab")).to_contain_text("It fits")
    expect(page.locator("#match-ba")).to_contain_text("It does not fit")
    expect(page.locator("#match-ba li")).to_contain_text(["is loading"])
    page.keyboard.press("Escape")
    expect(page.locator("#panel-member")).to_be_visible()


def test_a_click_chooses_and_one_with_shift_compares(page: Page, screen: Screen) -> None:
    screen.show(
        sight(newer(member(source(1), id=address(1))), newer(member(source(2, 1), id=address(2))))
    )
    expect(page.locator("#members [role=option]")).to_have_count(2)
    page.mouse.click(*point_of(page, address(1)))
    expect(page.locator("#panel-member")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text(address(1))
    other = point_of(page, address(2))
    page.keyboard.down("Shift")
    page.mouse.click(*other)
    page.keyboard.up("Shift")
    expect(page.locator("#match-ab li")).to_contain_text(["tp_rank"])


def test_search_and_states_narrow_the_view(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("state:loading")
    expect(page.locator("#found")).to_have_text("3 of 9")
    page.keyboard.press("Enter")
    expect(page.locator("#members")).to_be_focused()
    assert "loading" in current(page)
    page.locator("#search").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_have_text("")
    chip(page, "dead").click()
    expect(page.locator("#found")).to_have_text("1 of 9")
    chip(page, "dead").click()
    page.locator("#model").select_option(MODEL)
    expect(page.locator("#found")).to_have_text("8 of 9")


def test_the_table_says_the_same(page: Page) -> None:
    page.keyboard.press("t")
    rows = page.locator("#table-body [role=row]")
    expect(rows).to_have_count(9)
    expect(page.locator("#table-scroll")).to_have_attribute("aria-rowcount", "10")
    (loading,) = [text for text in rows.all_inner_texts() if address(3) in text]
    assert {"loading", "tp0/2", "42% of 1000 MiB", "60.0 MiB/s", "2 sources"} <= set(
        loading.split("\n")
    )
    page.get_by_role("button", name="Rate").click()
    page.get_by_role("button", name="Rate").click()
    heading = page.locator("#table-head [data-name=rate]")
    expect(heading).to_have_attribute("aria-sort", "descending")
    page.locator("#table-scroll").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#facts")).to_contain_text(address(3))


def test_hosts_or_models(page: Page) -> None:
    before = options(page)
    page.keyboard.press("g")
    expect(page.get_by_role("button", name="Models")).to_have_attribute("aria-pressed", "true")
    after = options(page)
    assert sorted(before) == sorted(after) and before != after
    # It survives a reload.
    page.reload()
    expect(page.get_by_role("button", name="Models")).to_have_attribute("aria-pressed", "true")


def test_changes_are_seen_and_said(page: Page, screen: Screen) -> None:
    members = swarm()
    died = replace(members[0], status=Status.DEAD, incarnation=1)
    done = replace(members[2], advert=member(source(3)).advert, version=2)
    screen.show(sight(died, members[1], done, *members[3:8], at=NOW + 1))
    expect(chip(page, "dead").locator(".many")).to_have_text("2")
    expect(chip(page, "loading").locator(".many")).to_have_text("2")
    expect(chip(page, "alive").locator(".many")).to_have_text("0")
    kinds = page.locator("#happened .kind")
    expect(kinds).to_have_count(3)
    assert sorted(kinds.all_text_contents()) == ["died", "forgotten", "ready"]
    expect(page.locator("#happened li").filter(has_text="died")).to_contain_text(address(1))
    expect(page.locator("#said")).not_to_be_empty()
    page.get_by_role("button", name="Trouble").click()
    expect(kinds).to_have_text(["died"])
    page.locator("#happened button").click()
    expect(page.locator("#panel-state")).to_have_text("dead")


def test_silence_is_said_loudly_and_ends(page: Page, screen: Screen) -> None:
    alarm = page.get_by_role("alert")
    expect(alarm).to_be_hidden()
    screen.show(sight(*swarm(), silence="no member answered within 3 s"))
    expect(alarm).to_contain_text("Nobody in the mesh answers")
    expect(alarm).to_contain_text("no member answered within 3 s")
    expect(page).to_have_title(re.compile("^No answer: served"))
    screen.show(sight(*swarm(), at=NOW + 9))
    expect(alarm).to_be_hidden()
    expect(page).to_have_title(re.compile("^served"))


def test_a_page_without_its_server_says_so_and_comes_back(
    screen: Screen, open_page: OpenPage
) -> None:
    with served(screen, FAST) as server:
        page = open_page(f"http://{server.host}/", complains=True)
        expect(page.locator("#members [role=option]")).to_have_count(9)
        port = server.port
    expect(page.get_by_role("alert")).to_contain_text("connection to mesh-inspect is lost")
    assert len(options(page)) == 9
    with served(screen, FAST, port=port):
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_page_without_its_token_says_what_to_do(screen: Screen, open_page: OpenPage) -> None:
    with served(screen, FAST, "a-token-of-a-test") as server:
        page = open_page(f"http://{server.host}/?token=a-token-of-a-test", complains=True)
        expect(page.locator("#members [role=option]")).to_have_count(9)
        assert "token" not in page.url
        page.context.clear_cookies()
        page.evaluate("() => dispatchEvent(new Event('offline'))")
        port = server.port
    with served(screen, FAST, "another-token-of-it", port=port):
        expect(page.get_by_role("alert")).to_contain_text("a token is needed")


HOSTILE = "<img src=x onerror=alert(1)>\u202e\u0000\u200borg/'\"&amp;"


def test_what_adverts_say_stays_text(page: Page, screen: Screen) -> None:
    named = {"model": HOSTILE, "given": HOSTILE}
    evil = holding(
        "x", names=named, reason=HOSTILE * 9, state="unavailable", endpoint=HOSTILE, fabric=HOSTILE
    )
    screen.show(sight(newer(member(evil, id=address(1)))))
    expect(page.locator("#members [role=option]")).to_have_count(1)
    to_member(page, address(1))
    page.keyboard.press("Enter")
    panel = page.locator("#panel")
    expect(panel.locator("#facts")).to_contain_text("<img src=x onerror=alert(1)>\\u{202e}\\u{0}")
    panel.locator("summary").click()
    expect(panel.locator("#advert")).to_contain_text("\\u{202e}")
    page.keyboard.press("t")
    expect(page.locator("#table-body")).to_contain_text("<img src=x")
    # Nothing of it became an element, and what turns text is nowhere on the page.
    expect(page.locator("img")).to_have_count(1)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", page.locator("body").inner_text())
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
