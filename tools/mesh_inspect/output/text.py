"""Text of others, fit for a terminal."""

from __future__ import annotations


def escape(text: str) -> str:
    """The text with every character that a terminal might obey or hide written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
