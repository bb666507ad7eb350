"""What of the documentation is made from the code and from other pages.

    python -m tests.pages      write it all

`test_pages.py` compares what is written with what would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.pages import settings

DOCS: Final = Path(__file__).parents[2] / "docs"

MADE: Final[Mapping[str, Callable[[], str]]] = {
    "reference/settings.md": settings.page,
}
"""Files under docs/, and what makes the text of each."""
