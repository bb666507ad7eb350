"""Write what is made."""

from __future__ import annotations

from tests.pages import DOCS, MADE

for name, make in MADE.items():
    (DOCS / name).parent.mkdir(exist_ok=True)
    (DOCS / name).write_text(make())
