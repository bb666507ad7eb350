"""The documents can be found, and what they point at is there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mesh_inspect.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:docs|loader|mesh|tests|tools)/[\w./-]*\w)`")


WHOLE = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w./%~#?=&-]*)?")


def elsewhere(text: str) -> list[str]:
    return re.findall(r"\]\((\w+://[^)]*)\)", text)


def links(text: str) -> list[str]:
    return [link for link in LINK.findall(text) if "://" not in link]


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in links(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@EVERY_PAGE
def test_links_to_elsewhere_are_whole(page: Path) -> None:
    """Nothing is asked of the network: only their form is looked at."""
    assert [link for link in elsewhere(page.read_text()) if not WHOLE.fullmatch(link)] == []


@EVERY_PAGE
def test_files_that_are_named_exist(page: Path) -> None:
    missing = [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert missing == []


def promises() -> list[str]:
    """What docs/security.md and SECURITY.md promise: rows of a table, and items of a list."""
    table = (DOCS / "security.md").read_text().split("## Defended")[1].split("\n#")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    listed = (ROOT / "SECURITY.md").read_text().split("## What we consider")[1]
    items = re.split(r"\n- ", listed.split("\n\n[docs")[0].split("\n\nThe tests")[0])[1:]
    return rows + items


def test_every_promise_of_security_names_the_test_that_holds_it() -> None:
    made = promises()
    assert len(made) > 30
    unheld = [
        text[:60] for text in made if not any("/test_" in name for name in FILE.findall(text))
    ]
    # Nothing of ours makes the session keys of CURVE.
    assert [text for text in unheld if "traffic is recorded" not in text] == []


def test_the_index_leads_to_every_page() -> None:
    linked = {(DOCS / link).resolve() for link in links((DOCS / "index.md").read_text())}
    assert {page for page in DOCS.rglob("*.md") if page.name != "index.md"} <= linked


def test_the_readme_leads_to_the_index() -> None:
    assert "docs/index.md" in links((ROOT / "README.md").read_text())


@pytest.mark.parametrize("page", sorted((DOCS / "adr").iterdir()), ids=lambda page: page.name)
def test_decision_is_numbered_dated_and_in_the_index(page: Path) -> None:
    heading, _, status = page.read_text().splitlines()[:3]
    assert heading.startswith(f"# {int(page.name[:4])}. ")
    date = re.fullmatch(r"Date: (\d{4}-\d\d-\d\d)\. Status: (accepted|superseded by .+)\.", status)
    assert date is not None, status
    (row,) = [line for line in (DOCS / "index.md").read_text().splitlines() if page.name in line]
    assert date[1] in row


COMMAND = re.compile(r"(?:`|^|-- |\$ |\()mesh-inspect ([a-z]+)\b", re.MULTILINE)


@EVERY_PAGE
def test_commands_that_are_named_exist(page: Path) -> None:
    known = {*app.list_commands(click.Context(app)), "peers"}
    assert {*COMMAND.findall(page.read_text())} <= known


def test_every_command_is_on_its_page() -> None:
    page = (DOCS / "mesh-inspect.md").read_text()
    known = app.list_commands(click.Context(app))
    assert [name for name in known if not re.search(rf"`(mesh-inspect )?{name}\b", page)] == []


def test_the_checks_would_notice() -> None:
    assert links("[a](missing.md) [b](https://example.org/x) [c](there.md#part)") == [
        "missing.md",
        "there.md",
    ]
    assert elsewhere("[a](http://x y)") == ["http://x y"] and not WHOLE.fullmatch("http://x y")
    assert COMMAND.findall("`mesh-inspect shoot`\nmesh-inspect aim\nmesh-inspect -o json") == [
        "shoot",
        "aim",
    ]
    assert FILE.findall("`tests/nothing.py` and `make test`") == ["tests/nothing.py"]
