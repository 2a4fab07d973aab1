"""`Top`: what is done each second, and at each key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import DescendantFocus, Resize
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from session_lock.asking import why
from session_lock.cli.common import printable
from session_lock.cli.top import palette, picture, wishes
from session_lock.cli.top.lists import FAILURES, SESSIONS, Column, lay
from session_lock.cli.top.screens import KeyField, Page, Question
from session_lock.cli.top.wishes import Wish
from session_lock.errors import SessionLockError
from session_lock.facts import Why
from session_lock.overview import Failure, LiveSession, Overview, Throughput
from session_lock.table import TaskTable
from session_lock.wording import span

T = TypeVar("T")

EVERY = 1.0
"""Seconds from one look to the next."""

MARK = 2
"""Characters in front of each row: in each list one is selected, also in the one that has not the focus."""

SHORT, SHORT_IF_NARROW = 28, 34
"""Lines; a screen that has fewer gets no empty ones."""

NARROW = 60
"""Columns."""


class Looking(Protocol):
    """Where it gets what it shows: a `Source`."""

    table: TaskTable

    async def look(self) -> Overview: ...
    async def ask(self, work: Callable[[Any, TaskTable], Awaitable[Any]]) -> Any: ...


class Top(App[None]):
    """One mapping. `interrupt` is what Ctrl-C does."""

    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "drain"),
        Binding("p", "pause"),
        Binding("r", "retry"),
        Binding("x", "discard"),
        Binding("w", "why"),
        Binding("l", "left_out"),
        Binding("t", "theme"),
        Binding("q", "quit"),
        Binding("ctrl+c", "interrupt", priority=True),
    ]

    def __init__(self, source: Looking, *, interrupt: Callable[[Top], None], every: float = EVERY) -> None:
        super().__init__()
        for name in palette.PALETTES:
            self.register_theme(palette.theme(name))
        self.theme = palette.first()
        self._source = source
        self._interrupt = interrupt
        self._every = every
        self._at_once = asyncio.Event()
        self._away: tuple[float, str] | None = None
        """Since when, by the loop's clock, and why no look succeeds."""

        self._said = Text()
        self._drawn: dict[str, str] | None = None
        """What stands where. None: there is no screen yet."""

        self.throughput = Throughput()
        self.seen: Overview | None = None
        """The newest look."""

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield Static(id="facts")
        for name in LISTS:
            with Vertical(id=name):
                yield Static(id=f"{name}-title")
                yield Static(id=f"{name}-header")
                yield OptionList(id=f"{name}-rows", markup=False, compact=True)
                if name == "sessions":
                    yield Static(id="why")
        with Vertical(id="below"):  # whatever else there is no room for
            yield Static(id="missing")
            yield Static(id="said")
            yield Static(id="keys")

    # Each second -----------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        self._drawn = {}
        self.run_worker(self._watch(), exit_on_error=True)

    async def on_unmount(self) -> None:
        self.workers.cancel_all()
        await asyncio.gather(*(each.wait() for each in [*self.workers]), return_exceptions=True)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._at_once.clear()
            try:
                look = await self._source.look()
            except SessionLockError as error:
                self._away = (self._away[0] if self._away else began, str(error))
            else:
                self._away, self.seen = None, look
                self.throughput.see(look)
            self.draw()
            try:
                async with asyncio.timeout(max(self._every - (clock() - began), 0.05)):
                    await self._at_once.wait()
            except TimeoutError:
                pass

    def on_resize(self, _: Resize) -> None:
        self.draw()

    # What is drawn ---------------------------------------------------------------------------------------

    @property
    def colours(self) -> palette.Palette:
        return palette.PALETTES[self.theme]

    def draw(self) -> None:
        """All of it, as it was seen last."""
        if self._drawn is None or not self.is_running:
            return  # there is no screen yet, or none any more
        width, colours = self.size.width - 2, self.colours
        short = SHORT_IF_NARROW if width < NARROW else SHORT
        self.screen_stack[0].set_class(self.size.height < short, "short")
        if self.seen is not None:
            self._draw_lists(self.seen, width)
            self._put("head", picture.head(self.seen, width, colours))
            self._put("facts", picture.facts(self.seen, self.throughput, width, colours))
            self._explain()
        self._put("said", self._line())
        self._put("keys", picture.keys(self._keys(), width, colours))

    def _draw_lists(self, look: Overview, width: int) -> None:
        dropped: list[str] = []
        for name, (columns, rows_of, names_of) in LISTS.items():
            rows = rows_of(look)
            laid = lay(columns, rows, look, width - MARK, self.colours)
            dropped += laid.dropped if rows else ()
            self._put(f"{name}-header", Text(" " * MARK) + laid.header)
            self._fill(self.screen_stack[0].query_one(f"#{name}-rows", OptionList), names_of(rows), laid.rows)
            self.screen_stack[0].query_one(f"#{name}").set_class(not rows, "empty")
        if look.failures and not look.sessions:
            self.screen_stack[0].query_one("#failures-rows").focus()
        self._put("sessions-title", picture.sessions_title(look, self.colours))
        self._put("failures-title", picture.failures_title(look, self.colours))
        self._put("missing", picture.missing(look, [*dict.fromkeys(dropped)], width, self.colours))

    def _fill(self, rows: OptionList, names: Sequence[str], lines: Sequence[Text]) -> None:
        """Where the same rows stand there the lines alone are written, so that nothing jumps."""
        at = rows.highlighted
        if names != [option.id for option in rows.options]:
            chosen = None if at is None else rows.get_option_at_index(at).id
            at = names.index(chosen) if chosen in names else 0
            rows.clear_options()
            rows.add_options([Option("", id=name) for name in names])
            rows.highlighted = at if names else None
        for index, line in enumerate(lines):
            mark = Text(
                "▸ " if index == at else "  ", self.colours.accent if rows.has_focus else self.colours.dim
            )
            if rows.get_option_at_index(index).prompt != (whole := mark + line):
                rows.replace_option_prompt_at_index(index, whole)

    def _put(self, name: str, text: Text) -> None:
        """Nothing is laid out anew for what stands there already."""
        assert self._drawn is not None
        if self._drawn.get(name) != (drawn := text.markup):
            self._drawn[name] = drawn
            self.screen_stack[0].query_one(f"#{name}", Static).update(text)

    def _explain(self) -> None:
        """Why the session that is selected got no more."""
        session = self.session
        self._put(
            "why",
            Text("" if session is None else f"{session.session}: {printable(session.why)}", self.colours.dim),
        )

    def on_option_list_option_highlighted(self, _: OptionList.OptionHighlighted) -> None:
        self.draw()

    def on_descendant_focus(self, _: DescendantFocus) -> None:
        self.draw()

    def _line(self) -> Text:
        """What came of the last key, unless the database is away."""
        if self._away is None:
            return self._said
        since, why_not = self._away
        seconds = asyncio.get_running_loop().time() - since
        text = f"No look for {span(seconds)}, tried again each second: {printable(why_not)}"
        return Text(text, f"bold {self.colours.bad}")

    def _say(self, text: str, *, bad: bool = False) -> None:
        self._said = Text(printable(text), self.colours.bad if bad else self.colours.accent)
        self.draw()

    def event(self, text: str) -> None:
        """Something that has happened elsewhere, to be read in the line of what was said last."""
        self._say(text)

    # What is selected ------------------------------------------------------------------------------------

    @property
    def session(self) -> LiveSession | None:
        return self._chosen("sessions", self.seen.sessions if self.seen else ())

    @property
    def failure(self) -> Failure | None:
        return self._chosen("failures", (self.seen.failures if self.seen else None) or ())

    def _chosen(self, name: str, rows: Sequence[T]) -> T | None:
        at = self.screen_stack[0].query_one(f"#{name}-rows", OptionList).highlighted
        return rows[at] if at is not None and at < len(rows) else None

    # Keys ------------------------------------------------------------------------------------------------

    def _keys(self) -> Sequence[tuple[str, str]]:
        paused = self.seen is not None and self.seen.paused
        return (
            ("d", "drain"), ("p", "resume" if paused else "pause"), ("r", "retry"), ("x", "discard"), ("w", "why"),
            ("tab", "list"), ("t", "colours"), ("q", "quit"),
        )  # fmt: skip

    def action_drain(self) -> None:
        self._ask_first("There is no session to drain.", self.session, wishes.to_drain)

    def action_pause(self) -> None:
        paused = self.seen is not None and self.seen.paused
        self._ask_first("", self._source.table, wishes.to_resume if paused else wishes.to_pause)

    def action_retry(self) -> None:
        self._ask_first("There is no failed task to retry.", self.failure, wishes.to_retry)

    def action_discard(self) -> None:
        self._ask_first("There is no failed task to discard.", self.failure, wishes.to_discard)

    def _ask_first(self, none: str, of: T | None, wish_of: Callable[[T], Wish]) -> None:
        if of is None:
            self._say(none)
            return
        wish = wish_of(of)

        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(self._carry_out(wish))

        self.push_screen(Question(wish.question), answered)

    async def _carry_out(self, wish: Wish) -> None:
        try:
            said, bad = await self._source.ask(wish.work), False
        except SessionLockError as error:
            said, bad = str(error), True
        self._at_once.set()
        self._say(said, bad=bad)

    # To read ---------------------------------------------------------------------------------------------

    def action_why(self) -> None:
        self.push_screen(KeyField(self.failure.key if self.failure else ""), self._look_at)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_list.id == "failures-rows" and self.failure is not None:
            self._look_at(self.failure.key)

    def _look_at(self, key: str | None) -> None:
        if key is not None:
            self.run_worker(self._tell(key))

    async def _tell(self, key: str) -> None:
        try:
            found: Why = await self._source.ask(lambda connection, table: why(connection, table, key))
        except SessionLockError as error:
            self._say(str(error), bad=True)
            return
        self.push_screen(Page(picture.why_page(found, self.colours)))

    def action_left_out(self) -> None:
        if self.seen is None or not self.seen.left_out:
            self._say("Nothing is left out.")
            return
        self.push_screen(Page(Text("\n\n").join(Text(printable(each)) for each in self.seen.left_out)))

    # The screen itself -----------------------------------------------------------------------------------

    def action_theme(self) -> None:
        self.theme = palette.other(self.theme)
        self._said = Text()
        self.draw()

    def action_interrupt(self) -> None:
        self._interrupt(self)


def _names(failures: Sequence[Failure]) -> list[str]:
    """One for each, whatever failed how often."""
    return [
        f"{each.key} {each.attempt} {each.at} {each.session} {failures[:i].count(each)}"
        for i, each in enumerate(failures)
    ]


LISTS: Mapping[
    str, tuple[Sequence[Column], Callable[[Overview], Sequence[Any]], Callable[[Sequence[Any]], list[str]]]
] = {
    "sessions": (SESSIONS, lambda look: look.sessions, lambda rows: [str(each.session) for each in rows]),
    "failures": (FAILURES, lambda look: look.failures or (), _names),
}
"""By name: the columns, the rows of a look, and a name for each of these."""
