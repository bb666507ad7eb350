"""The screen: a head, four lists, a line of keys, and pages above them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input, Static

from mesh_inspect.exits import InspectExit
from mesh_inspect.output.text import escape
from mesh_inspect.top import details
from mesh_inspect.top.details import TextLine
from mesh_inspect.top.headline import Freshness, HeadWord, cut, fitted, headline
from mesh_inspect.top.lists import COVERAGES, HAPPENINGS, LOADS, MEMBERS
from mesh_inspect.top.pages import Page, as_bar, as_line
from mesh_inspect.top.picture import Picture
from mesh_inspect.top.table import RowTable
from mesh_inspect.view.changes import Happening, happenings
from mesh_inspect.view.models import Coverage
from mesh_inspect.watching import Sight
from netmesh import MeshSettings

MOST_MARKS: Final = 2

STRIP: Final = 3
"""Events that are shown below the other lists."""

TALL: Final = 20
"""Lines of a screen that has room for them."""

MOST_HAPPENINGS: Final = 500
"""That are kept."""

_KEYS: Final = (
    HeadWord("q quit", drop=1),
    HeadWord("/ filter", drop=3),
    HeadWord("Enter details", drop=4),
    HeadWord("Space mark", drop=6),
    HeadWord("m match", drop=7),
    HeadWord("< > sort", drop=5),
    HeadWord("p pause", drop=8),
    HeadWord("? help"),
)


@dataclass(frozen=True, slots=True)
class ScreenPicture:
    """A look that somebody answered, as it stands on the screen."""

    picture: Picture = field(default_factory=Picture)
    answered_by: str = ""
    at_s: float | None = None
    """When it came, by the clock of the screen; None: there was none yet."""


class Top(App[int]):
    """A mesh on the whole screen. `take` gives it what came of a look."""

    # The colours are those of the terminal, so the screen is as dark or as light as that.
    CSS = """
    Screen, Page { background: ansi_default; color: ansi_default; }
    #head { height: auto; }
    #tabs { height: 1; }
    RowTable { height: 1fr; background: ansi_default; }
    RowTable, Page VerticalScroll {
        scrollbar-color: ansi_bright_black;
        scrollbar-color-hover: ansi_bright_black;
        scrollbar-color-active: ansi_bright_black;
        scrollbar-background: ansi_default;
        scrollbar-background-hover: ansi_default;
        scrollbar-background-active: ansi_default;
    }
    #strip { height: auto; max-height: 4; }
    #filter { height: 1; border: none; padding: 0; background: ansi_default; }
    #keys { height: 1; }
    """

    ENABLE_COMMAND_PALETTE = False
    AUTO_FOCUS = None

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+q", "leave", "Quit"),
        Binding("ctrl+c", "interrupt", "Quit", priority=True),
        Binding("1", "view(0)", "Members"),
        Binding("2", "view(1)", "Transfers"),
        Binding("3", "view(2)", "Models"),
        Binding("4", "view(3)", "Events"),
        Binding("slash", "filter", "Filter"),
        Binding("escape", "clear", "Clear"),
        Binding("greater_than_sign,s", "sort(1)", "Sort"),
        Binding("less_than_sign", "sort(-1)", "Sort"),
        Binding("r", "reverse", "Reverse"),
        Binding("enter", "open", "Details"),
        Binding("space", "mark", "Mark"),
        Binding("m", "match", "Match"),
        Binding("p", "pause", "Pause"),
        Binding("question_mark,h,f1", "help", "Help"),
    ]

    def __init__(
        self, settings: MeshSettings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(ansi_color=True)
        self._settings = settings
        self._monotonic = monotonic
        self._newest = ScreenPicture()
        """The last look that somebody answered."""
        self._held: ScreenPicture | None = None
        """The look that the operator holds."""
        self._silence = ""
        self._happenings: deque[Happening] = deque(maxlen=MOST_HAPPENINGS)
        """The newest first."""
        self._marked: tuple[str, ...] = ()
        self._tables: tuple[RowTable[Any], ...] = (
            RowTable(MEMBERS, id="members"),
            RowTable(LOADS, id="transfers"),
            RowTable(COVERAGES, id="models"),
            RowTable(HAPPENINGS, id="events"),
        )
        self._view = 0
        self._head = Static(id="head")
        self._tabs = Static(id="tabs")
        self._strip = Static(id="strip")
        self._filter = Input(placeholder="words to look for", id="filter")
        self._filter.display = False
        self._keys = Static(id="keys")

    class Looked(Message):
        """Somebody has looked at the mesh."""

        def __init__(self, sight: Sight) -> None:
            super().__init__()
            self.sight = sight

    class Warned(Message):
        """The mesh has something to say to the operator."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class LookFailed(Message):
        """Looking ended by a fault of its own."""

        def __init__(self, error: BaseException) -> None:
            super().__init__()
            self.error = error

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._tabs
        yield from self._tables
        yield self._strip
        yield self._filter
        yield self._keys

    def on_mount(self) -> None:
        self.action_view(0)
        self._fill()
        self.tick()
        self.set_interval(1.0, self.tick)

    def on_resize(self, event: events.Resize) -> None:
        # The screen has the new size only afterwards.
        self.call_after_refresh(self._say_all)

    def _say_all(self) -> None:
        self.tick()
        self._say_tabs()
        self._say_strip()

    def on_top_looked(self, message: Looked) -> None:
        self.take(message.sight)

    def on_top_warned(self, message: Warned) -> None:
        self.notify(escape(message.text), severity="warning", markup=False)

    def on_top_look_failed(self, message: LookFailed) -> None:
        raise message.error

    def take(self, sight: Sight) -> None:
        """Show what came of a look."""
        self._silence = sight.silence or ""
        if sight.silence is None:
            if self._newest.at_s is not None:
                before = self._newest.picture.rows
                self._happenings.extendleft(happenings(before, sight.rows, sight.at))
            picture = Picture(sight.members, sight.rows)
            self._newest = ScreenPicture(picture, sight.answered_by, self._monotonic())
        if self._held is None:
            self._fill()
        self.tick()

    def tick(self) -> None:
        """Say again how old the picture is."""
        width, height = self.size
        mesh = self._settings.name
        lines = headline(mesh, self.picture, self._freshness(), width, height)
        self._head.update(Text("\n", no_wrap=True, overflow="crop").join(map(as_line, lines)))
        self._keys.update(as_bar(fitted(_KEYS, width), width))

    @property
    def picture(self) -> Picture:
        """What is on the screen."""
        return self._shown.picture

    @property
    def _shown(self) -> ScreenPicture:
        return self._held or self._newest

    @property
    def table(self) -> RowTable[Any]:
        """The list that is shown."""
        return self._tables[self._view]

    def _freshness(self) -> Freshness:
        shown = self._shown
        age_s = None if shown.at_s is None else max(0.0, self._monotonic() - shown.at_s)
        return Freshness(age_s, shown.answered_by, self._silence, self._held is not None)

    def _fill(self) -> None:
        """Put the picture into the lists."""
        marked: frozenset[Hashable] = frozenset(self._marked)
        unanswered = [escape(line) for line in self._silence.split("\n")]
        for table in self._tables:
            table.empty = (table.view.empty,) if self._shown.at_s is not None else unanswered
        for table, rows in zip(self._tables, self._lists(), strict=True):
            table.show(rows, marked)
        self._say_tabs()
        self._say_strip()
        if isinstance(self.screen, Page):
            self.screen.write()

    def _lists(self) -> tuple[Sequence[Any], ...]:
        """The rows of each list."""
        picture = self.picture
        return picture.rows, picture.transfers.loads, picture.models, tuple(self._happenings)

    def _say_tabs(self) -> None:
        pieces = []
        for number, table in enumerate(self._tables):
            style = "reverse" if number == self._view else ""
            pieces.append(HeadWord(f"{number + 1} {table.view.title} {table.shown}", style, number))
        table = self.table
        if table.arrangement.words:
            pieces.append(HeadWord(f"/{escape(table.arrangement.words)}", "bold"))
        if self._marked:
            pieces.append(HeadWord(f"* {' '.join(map(escape, self._marked))}", "bold", drop=9))
        self._tabs.update(as_line(fitted(pieces, self.size.width)))

    def _say_strip(self) -> None:
        """The newest events below the other lists, where there is room."""
        strip = self._strip
        events_shown = self.table.view is HAPPENINGS
        strip.display = bool(self._happenings) and self.size.height >= TALL and not events_shown
        newest = [self._happenings[n] for n in range(min(STRIP, len(self._happenings)))]
        cells = [[column.cell(one) for column in HAPPENINGS.columns] for one in newest]
        lines = [cut(escape("  ".join(one)), self.size.width) for one in cells]
        strip.update(Text("\n").join(Text(line, "dim", end="") for line in lines))

    def action_view(self, number: int) -> None:
        """Show another list."""
        self._view = number
        for place, table in enumerate(self._tables):
            table.display = place == number
        self.table.redraw()
        self.table.focus()
        self._say_tabs()
        self._say_strip()

    def action_next_view(self, by: int) -> None:
        """Show the next list, or the one before."""
        self.action_view((self._view + by) % len(self._tables))

    def _arrange(self, **changes: Any) -> None:
        self.table.rearrange(replace(self.table.arrangement, **changes))
        self._say_tabs()

    def action_sort(self, by: int) -> None:
        """Sort by the next column, or the one before. Between the last and the first the mesh's own
        order comes again."""
        columns = len(self.table.view.columns)
        now = self.table.arrangement.column
        place = (columns if now is None else now) + by
        at = place % (columns + 1)
        self._arrange(column=None if at == columns else at, down=False)

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._arrange(down=not self.table.arrangement.down)

    def on_row_table_sorted(self, message: RowTable.Sorted) -> None:
        now = self.table.arrangement
        down = now.column == message.column and not now.down
        self._arrange(column=message.column, down=down)

    def on_row_table_row_chosen(self) -> None:
        self.action_open()

    def action_filter(self) -> None:
        """Ask for words to look for."""
        box = self._filter
        box.value = self.table.arrangement.words
        box.display = True
        box.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        if message.input.display:
            self._arrange(words=message.value)

    def on_input_submitted(self) -> None:
        self._filter.display = False
        self.table.focus()

    def on_input_blurred(self) -> None:
        self._filter.display = False

    def action_clear(self) -> None:
        """Take back the filter, else the marks."""
        self.on_input_submitted()
        if self.table.arrangement.words:
            self._arrange(words="")
        elif self._marked:
            self._marked = ()
            self._fill()

    def action_open(self) -> None:
        """Show everything about the row at the cursor."""
        row = self.table.row
        if isinstance(row, Coverage):
            self._open_members(row)
        elif (member := self.table.member) is not None:
            self._open(member, lambda: details.of_member(member, self.picture))

    def _open_members(self, model: Coverage) -> None:
        """Show the members that hold a model."""
        self.action_view(0)
        self._arrange(words=f"{model.make.model} {model.make.role}")

    def action_mark(self) -> None:
        """Mark the member at the cursor, or take its mark back. The last two marks stay."""
        member = self.table.member
        if member is None:
            return
        others = tuple(one for one in self._marked if one != member)
        self._marked = others if member in self._marked else (*others, member)[-MOST_MARKS:]
        self._fill()

    def action_match(self) -> None:
        """Say whether the two members that are marked match."""
        if len(self._marked) < MOST_MARKS:
            self.notify("mark two members with Space first", markup=False)
            return
        one, other = self._marked
        self._open(
            f"{one} and {other}",
            lambda: details.of_pair(one, other, self.picture, self._settings),
        )

    def action_help(self) -> None:
        """Show what the keys do."""
        self._open("Keys", lambda: details.HELP)

    def _open(self, title: str, written: Callable[[], Sequence[TextLine]]) -> None:
        self.push_screen(Page(escape(title), written))

    def action_pause(self) -> None:
        """Hold the picture, or let it go on."""
        self._held = None if self._held is not None else self._newest
        self._fill()
        self.tick()

    def action_leave(self) -> None:
        """End, as an operator wants it."""
        self.exit(int(InspectExit.OK))

    def action_interrupt(self) -> None:
        """End, as Ctrl-C ends every command."""
        self.exit(int(InspectExit.INTERRUPTED))
