"""What of the documentation is made from the code and from other pages.

    python -m tests.pages      write it all

`test_pages.py` compares what is written with what would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.pages import bars, house, settings, stories

DOCS: Final = Path(__file__).parents[2] / "docs"


def within(page: str, name: str, block: str) -> str:
    """A page with a block of it made anew; two comments mark the block. Raises `ValueError`."""
    begin, end = (
        f"<!-- made by python -m tests.pages: {name} -->\n\n",
        f"\n\n<!-- end of {name} -->",
    )
    text = (DOCS / page).read_text()
    first = text.index(begin) + len(begin)
    return text[:first] + block + text[text.index(end) :]


MADE: Final[Mapping[str, Callable[[], str]]] = {
    "reference/settings.md": settings.page,
    "reference/protocol.md": lambda: within(
        "reference/protocol.md", "transitions", stories.transitions()
    ),
    "pictures/start.svg": stories.start,
    "pictures/house.svg": house.picture,
    "pictures/life.svg": stories.life,
    "evidence/pair.svg": bars.pair,
    "evidence/sources.svg": bars.sources,
    "evidence/starts.svg": bars.starts,
    "evidence/crash.svg": bars.crash,
}
"""Files under docs/, and what makes the text of each."""
