"""The site of docs/ builds, its links lead somewhere, and it loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs/site/hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = hooks()


def build(root: Path, into: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(root / "docs/site/mkdocs.yml"), "--site-dir", str(into)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict: a dead link, anchor or picture, or a page outside the nav, fails."""
    into = tmp_path_factory.mktemp("site")
    built = build(ROOT, into)
    assert built.returncode == 0, built.stdout + built.stderr
    return into


class Loaded(HTMLParser):
    """What a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("next", "prev", "canonical"):
            self.found.append(given.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")


def loaded(html: str) -> list[str]:
    parser = Loaded()
    parser.feed(html)
    return [place for place in parser.found if place]


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    wanted = pages | {Path(page) for page in HOOKS.OUTSIDE.values()}
    assert len(wanted) > 30
    assert [page for page in wanted if not (site / page.with_suffix(".html")).exists()] == []


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    places = {(page.name, place) for page in pages for place in loaded(page.read_text())}
    assert len(places) > len(pages)
    assert {found for found in places if "//" in found[1]} == set()
    styles = "".join(path.read_text() for path in [*site.rglob("*.css"), *site.rglob("*.svg")])
    assert re.findall(r"url\(\s*[\"']?(?:https?:)?//", styles) == []


def test_search_has_an_index_of_its_own(site: Path) -> None:
    assert "MESH_SEEDS" in (site / "search" / "search_index.json").read_text()


def test_a_fault_of_each_kind_fails_the_build(tmp_path: Path) -> None:
    # A few pages are enough, and built much sooner; links to the others are faults too.
    rooms = ("adr", "concepts", "deploy", "evidence", "howto", "pictures", "reference")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns(*rooms))
    for file in HOOKS.OUTSIDE:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    with (tmp_path / "docs" / "index.md").open("a") as index:
        index.write("\n[a](gone.md) [b](security.md#gone) ![c](gone.png) [d](../SECURITY.md#no)\n")
    (tmp_path / "docs" / "new.md").write_text("# Nowhere in the nav\n")

    built = build(tmp_path, tmp_path / "site")
    said = built.stdout + built.stderr
    assert built.returncode != 0
    for fault in ("gone.md", "security.md#gone", "gone.png", "security-policy.md#no", "new.md"):
        assert fault in said, fault


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        ("index.md", "[a](../SECURITY.md)", "[a](security-policy.md)"),
        ("adr/0001-a.md", "[a](../security.md#b)", "[a](../security.md#b)"),
        ("security-policy.md", "[a](docs/security.md)", "[a](security.md)"),
        ("evidence/fakecann.md", "[a](../../docs/index.md)", "[a](../index.md)"),
        (
            "reference/ascend.md",
            "[a](../../tests/fakecann/README.md)",
            "[a](../evidence/fakecann.md)",
        ),
        ("concepts/a.md", "![a](../pictures/a.png)", "![a](../pictures/a.png)"),
        ("index.md", "[a](../LICENSE)", "a"),
        ("security.md", "[glossary.md](concepts/glossary.md)", "[Glossary](concepts/glossary.md)"),
        ("index.md", "[a](https://example.org/x) [b](#c)", "[a](https://example.org/x) [b](#c)"),
    ],
)
def test_links_are_those_of_the_site(page: str, text: str, shown: str) -> None:
    assert HOOKS.rewritten(text, page) == shown


def test_what_a_browser_loads_is_found() -> None:
    page = '<link href="https://x/a.css"><a href="https://y"><script src="//z/b.js"></script>'
    assert loaded(page) == ["https://x/a.css", "//z/b.js"]
