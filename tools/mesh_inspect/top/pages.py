"""Pages above the lists: what there is to say of a member, of two, or of the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from mesh_inspect.top.details import TextLine
from mesh_inspect.top.headline import GAP, HeadWord, fitted


def as_text(lines: Sequence[TextLine]) -> Text:
    """Lines for a widget. `Text`, because a text that was a `str` could be read as markup."""
    return Text("\n").join(Text(line.text, line.style, end="") for line in lines)


def as_line(pieces: Sequence[HeadWord]) -> Text:
    """One line for a widget."""
    line = Text(GAP, no_wrap=True, overflow="crop")
    return line.join(Text(piece.text, piece.style, end="") for piece in pieces)


def as_bar(words: Sequence[HeadWord], width: int) -> Text:
    """One line for a widget, from edge to edge."""
    line = as_line(words)
    line.pad_right(max(0, width - line.cell_len))
    line.stylize("reverse")
    return line


class Page(ModalScreen[None]):
    """A text that is written anew with each look, as long as it is open. Keys of the lists below do
    nothing meanwhile."""

    DEFAULT_CSS = """
    Page #title { height: 1; }
    Page #keys { height: 1; }
    Page VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Back"),
        Binding("j", "page('scroll_down')", show=False),
        Binding("k", "page('scroll_up')", show=False),
    ]

    def __init__(self, title: str, written: Callable[[], Sequence[TextLine]]) -> None:
        """`title` is ours or escaped."""
        super().__init__()
        self._title = title
        self._written = written

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with VerticalScroll():
            yield Static(as_text(self._written()), id="text", markup=False)
        yield Static(id="keys")

    def on_resize(self) -> None:
        # The page has the new size only afterwards.
        self.call_after_refresh(self._say_bars)

    def _say_bars(self) -> None:
        width = self.size.width
        title = as_bar([HeadWord(self._title, "bold")], width)
        self.query_one("#title", Static).update(title)
        keys = fitted([HeadWord("Esc back"), HeadWord("up down scroll", drop=1)], width)
        self.query_one("#keys", Static).update(as_bar(keys, width))

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def write(self) -> None:
        """Write the text anew."""
        self.query_one("#text", Static).update(as_text(self._written()))

    def action_page(self, what: str) -> None:
        """Scroll by a line."""
        getattr(self.query_one(VerticalScroll), what)(animate=False)
