"""What mkdocs does not do by itself: pages that lie outside docs/, and links that lead to them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY: Final = Path(__file__).parents[2]

OUTSIDE: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "tests/fakecann/README.md": "evidence/fakecann.md",
}
"""Files of the repository, and the pages of the site that show them."""

_PLACES: Final = OUTSIDE | {"README.md": "index.md"}
"""Where links lead. The site's first page says what the README says."""

_SOURCES: Final = {page: file for file, page in OUTSIDE.items()}

_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")

_FILE_NAME: Final = re.compile(r"[\w/-]+\.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / file)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    return rewritten(markdown, page.file.src_uri)


def rewritten(markdown: str, page: str) -> str:
    """The text with its links as the site has them: `page` is the path of the page in the site.

    A link to a file that the site does not show becomes its text. Where the text is a file's name,
    readers of the site see the page's title.
    """
    file = _SOURCES.get(page, f"docs/{page}")

    def site_link(match: re.Match[str]) -> str:
        picture, text, link, part = match[1], match[2], match[3], match[4] or ""
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), link))
        place = _PLACES.get(target, target.removeprefix("docs/"))
        if place == target:
            return text
        if _FILE_NAME.fullmatch(text):
            text = title(target) or text
        way = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{picture}[{text}]({way}{part})"

    return _LINK.sub(site_link, markdown)


def title(file: str) -> str:
    """The heading of a page, named by its path in the repository; empty if there is none."""
    path = REPOSITORY / file
    text = path.read_text() if path.is_file() else ""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""
