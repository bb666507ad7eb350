"""A list of thousands of rows, of which only those on the screen are drawn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Final, Generic

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mesh_inspect.output.table import NOTHING, STYLES
from mesh_inspect.output.text import escape
from mesh_inspect.top.fitting import GAP, ColumnRoom, Placed, placed
from mesh_inspect.top.headline import cut
from mesh_inspect.top.lists import ListView, Row, RowOrder

HEADING: Final = 1
"""Lines above the rows."""

_MARK: Final = "*"
_BLANK: Final = " "

_PLAIN: Final = Style()
_TITLE: Final = Style(bold=True)
_SORTED: Final = Style(bold=True, underline=True)
_FADED: Final = Style(dim=True)
_CURSOR: Final = Style(reverse=True)

_LONGEST: Final = 400
"""Characters of a cell that are looked at: a screen shows fewer."""


class RowTable(ScrollView, Generic[Row], can_focus=True):
    """The rows of one list. The cursor and the marks stay with their rows from look to look."""

    DEFAULT_CSS = """
    RowTable { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "move(-1000000000)", "First", show=False),
        Binding("end,G", "move(1000000000)", "Last", show=False),
        # A screen takes these to move its focus, which stays on the list here.
        Binding("tab", "app.next_view(1)", "Next list", show=False),
        Binding("shift+tab", "app.next_view(-1)", "List before", show=False),
    ]

    class Sorted(Message):
        """Somebody clicked on a heading."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    class RowChosen(Message):
        """Somebody clicked on the row at the cursor."""

    def __init__(self, view: ListView[Row], **how: Any) -> None:
        super().__init__(**how)
        self.view = view
        self.arrangement = RowOrder()
        self.empty: Sequence[str] = (view.empty,)
        """What stands there without any row: lines that are ours, or escaped."""
        self._all: Sequence[Row] = ()
        self._rows: Sequence[Row] = ()
        self._cursor = 0
        self._marked: frozenset[Hashable] = frozenset()
        self._widths = [cell_len(column.title) for column in view.columns]
        self._placed: tuple[Placed, ...] = ()
        self._drawn: list[tuple[object, ...]] = []

    @property
    def shown(self) -> int:
        """How many rows the search found."""
        return len(self._rows)

    @property
    def row(self) -> Row | None:
        """The row at the cursor."""
        return self._rows[self._cursor] if self._rows else None

    @property
    def member(self) -> str | None:
        """The id of the member at the cursor."""
        return None if self.row is None else self.view.member(self.row)

    def show(self, rows: Sequence[Row], marked: frozenset[Hashable] = frozenset()) -> None:
        """Take the rows of a new look; `marked` has ids of members."""
        self._all, self._marked = rows, marked
        self._arrange()

    def rearrange(self, arrangement: RowOrder) -> None:
        """Show the rows in another order, or others of them."""
        self.arrangement = arrangement
        self._arrange()

    def _arrange(self) -> None:
        key = None if self.row is None else self.view.key(self.row)
        self._rows = self.arrangement.arranged(self.view, self._all)
        self.virtual_size = Size(self.size.width, len(self._rows) + HEADING)
        # An operator who has not moved looks at the top of the list, whatever comes to stand there.
        found = self._cursor
        if key is not None and self._cursor:
            places = (n for n, row in enumerate(self._rows) if self.view.key(row) == key)
            found = next(places, found)
        self._cursor = max(0, min(found, len(self._rows) - 1))
        self._keep_in_view()
        self.redraw()

    def action_move(self, by: int) -> None:
        """Move the cursor by some rows."""
        self._cursor = max(0, min(self._cursor + by, len(self._rows) - 1))
        self._keep_in_view()
        self.redraw()

    def action_page(self, by: int) -> None:
        """Move the cursor by some screens."""
        self.action_move(by * max(1, self._height - 1))

    def on_click(self, event: events.Click) -> None:
        """A heading sorts; a row gets the cursor, and opens when it has it."""
        if event.y < HEADING:
            for one in self._placed:
                if one.start <= event.x <= one.start + one.width:
                    self.post_message(self.Sorted(one.index))
            return
        place = event.y - HEADING + self.scroll_offset.y
        if place < len(self._rows):
            if place == self._cursor:
                self.post_message(self.RowChosen())
            self.action_move(place - self._cursor)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel(event, 1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel(event, -1)

    def _wheel(self, event: events.MouseEvent, by: int) -> None:
        event.stop()
        event.prevent_default()
        self.action_move(by)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """The cursor stays on the screen, however it is scrolled."""
        super().watch_scroll_y(old_value, new_value)
        top = round(new_value)
        lowest = min(top + self._height, len(self._rows)) - 1
        self._cursor = max(0, top, min(self._cursor, lowest))
        self._drawn = []

    def on_resize(self) -> None:
        self._keep_in_view()
        self._place()

    @property
    def _height(self) -> int:
        """Rows that the screen has room for."""
        return max(1, self.size.height - HEADING)

    def _keep_in_view(self) -> None:
        top = self.scroll_offset.y
        lowest = self._cursor - self._height + 1
        self.scroll_to(y=max(lowest, min(top, self._cursor)), animate=False, immediate=True)

    def _visible(self) -> Sequence[Row]:
        top = self.scroll_offset.y
        return self._rows[top : top + self._height]

    def redraw(self) -> None:
        """Draw again what has changed on the screen."""
        if not self.display:
            return
        cells = [self._cells(row) for row in self._visible()]
        widths = [
            max([width, *(min(cell_len(row[n]), column.most) for row in cells)])
            for n, (width, column) in enumerate(zip(self._widths, self.view.columns, strict=True))
        ]
        if widths != self._widths or not self._placed:
            # Widths only grow, so that columns stand still while an operator scrolls.
            self._widths = widths
            self._place()
            return
        drawn = [self._look(y) for y in range(self.size.height)]
        for y, look in enumerate(drawn):
            if y >= len(self._drawn) or look != self._drawn[y]:
                self.refresh(Region(0, y, self.size.width, 1))
        self._drawn = drawn

    def _place(self) -> None:
        # One column is for marks, and one for the scroll bar.
        screen = max(1, self.size.width - len(_MARK) - 1)
        wanted = [
            ColumnRoom(
                width,
                max(column.least, min(width, screen // 2) if column.whole else 0),
                column.drop,
            )
            for width, column in zip(self._widths, self.view.columns, strict=True)
        ]
        self._placed = placed(wanted, screen)
        self._drawn = [self._look(y) for y in range(self.size.height)]
        self.refresh()

    def _cells(self, row: Row) -> tuple[str, ...]:
        """Text that a terminal can be given."""
        return tuple(escape(column.cell(row)[:_LONGEST]) or NOTHING for column in self.view.columns)

    def _look(self, y: int) -> tuple[object, ...]:
        """All that decides how a line of the screen is drawn."""
        place = y - HEADING + self.scroll_offset.y
        if y < HEADING:
            return ("heading", self.arrangement.column, self.arrangement.down)
        if place >= len(self._rows):
            return (self._said_instead(y),)
        row = self._rows[place]
        return (
            *self._cells(row),
            self.view.faded(row),
            place == self._cursor,
            self.view.member(row) in self._marked,
        )

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the heading, or a row."""
        width = self.size.width
        if y < HEADING:
            return self._heading().adjust_cell_length(width)
        place = y - HEADING + self.scroll_offset.y
        if place < len(self._rows):
            return self._line(place, self._rows[place]).adjust_cell_length(
                width, _CURSOR if place == self._cursor else None
            )
        instead = Segment(f" {self._said_instead(y)}", _FADED)
        return Strip([instead]).adjust_cell_length(width)

    def _said_instead(self, y: int) -> str:
        """What a line says where there are no rows."""
        if self._rows:
            return ""
        said = ("nothing matches the filter",) if self._all else self.empty
        return said[y - HEADING] if y - HEADING < len(said) else ""

    def _heading(self) -> Strip:
        parts = [Segment(_BLANK)]
        for one in self._placed:
            column = self.view.columns[one.index]
            is_sorted = self.arrangement.column == one.index
            arrow = ("v" if self.arrangement.down else "^") if is_sorted else ""
            title = _filling(column.title + arrow, one.width, right=column.right)
            parts += [Segment(title, _SORTED if is_sorted else _TITLE), Segment(" " * GAP)]
        return Strip(parts)

    def _line(self, place: int, row: Row) -> Strip:
        base = _FADED if self.view.faded(row) else _PLAIN
        if place == self._cursor:
            base += _CURSOR
        cells = self._cells(row)
        parts = [Segment(_MARK if self.view.member(row) in self._marked else _BLANK, base)]
        for one in self._placed:
            column, cell = self.view.columns[one.index], cells[one.index]
            style = base
            if column.is_status and base is _PLAIN:
                style = Style.parse(STYLES.get(cell, ""))
            text = _filling(cell, one.width, right=column.right)
            parts += [Segment(text, style), Segment(" " * GAP, base)]
        return Strip(parts)


def _filling(text: str, width: int, *, right: bool) -> str:
    """The text in exactly that many columns of the screen."""
    text = cut(text, width)
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
