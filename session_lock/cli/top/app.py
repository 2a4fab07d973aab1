"""`Top`: what is done each second, and at each key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol, TypeVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.events import DescendantFocus, Resize
from textual.types import CSSPathType
from textual.widgets import OptionList

from session_lock.asking import why
from session_lock.cli.common import printable
from session_lock.cli.top import palette, picture, wishes
from session_lock.cli.top.screens import KeyField, Page, Question
from session_lock.cli.top.sheet import Sheet
from session_lock.cli.top.wishes import Wish
from session_lock.errors import SessionLockError
from session_lock.facts import Why
from session_lock.overview import Failure, LiveSession, Overview, Throughput
from session_lock.table import TaskTable
from session_lock.wording import span

T = TypeVar("T")

EVERY = 1.0
"""Seconds from one look to the next."""


REST = 10.0
"""A look that took so long is followed by this many times that much of rest: looking costs the server a tenth of a connection at most."""

REST_AFTER_FAILURE = 3.0
"""Seconds at most: a database that is there again is seen soon."""

GOODBYE = 2.0
"""Seconds for which leaving waits for what is under way."""


def rest_after(took: float, *, every: float) -> float:
    """Seconds until the next look."""
    return max(every - took, REST * took)


class Looking(Protocol):
    """Where it gets what it shows: a `Source`."""

    table: TaskTable

    async def look(self) -> Overview: ...
    async def ask(self, work: Callable[[Any, TaskTable], Awaitable[Any]]) -> Any: ...


class Top(App[None]):
    """One mapping. `interrupt` is what Ctrl-C does."""

    CSS_PATH: ClassVar[CSSPathType | None] = "top.tcss"
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
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
        self._sheet: Sheet | None = None
        """None: it is not there yet."""

        self.throughput: Throughput = Throughput()
        self.seen: Overview | None = None
        """The newest look."""

    def get_default_screen(self) -> Sheet:
        return Sheet()

    # Each second -----------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        sheet = self.screen_stack[0]
        assert isinstance(sheet, Sheet)
        self._sheet = sheet
        self.run_worker(self._watch(), exit_on_error=True)

    async def on_unmount(self) -> None:
        self.workers.cancel_all()
        waiting = (each.wait() for each in [*self.workers])
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await asyncio.gather(*waiting, return_exceptions=True)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._at_once.clear()
            try:
                look = await self._source.look()
            except SessionLockError as error:
                self._away = (self._away[0] if self._away else began, str(error))
                self.throughput.miss()
            else:
                self._away, self.seen = None, look
                self.throughput.see(look)
            rest = rest_after(clock() - began, every=self._every)
            if self._away is not None:
                rest = min(rest, max(self._every, REST_AFTER_FAILURE))
            self.draw()
            try:
                async with asyncio.timeout(rest):
                    await self._at_once.wait()
            except TimeoutError:
                pass

    def on_resize(self, _: Resize) -> None:
        self.call_after_refresh(self.draw)  # by then it is of the new size

    # What is drawn ---------------------------------------------------------------------------------------

    @property
    def colours(self) -> palette.Palette:
        return palette.PALETTES[self.theme]

    def draw(self) -> None:
        """All of it, as it was seen last."""
        if self._sheet is None or not self.is_running:
            return
        if self.seen is not None:
            self._sheet.show(self.seen, self.throughput, self.colours)
        self._sheet.say(self._line(), self._keys(), self.colours)

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
        text = f"No look for {span(seconds)}, asked again and again: {printable(why_not)}"
        return Text(text, f"bold {self.colours.bad}")

    def _say(self, text: str, *, bad: bool = False) -> None:
        self._said = Text(printable(text), self.colours.bad if bad else self.colours.accent)
        self.draw()

    def event(self, text: str) -> None:
        """Something that has happened elsewhere, to be read in the line of what was said last."""
        self._say(text)

    @property
    def _session(self) -> LiveSession | None:
        """The one that is selected."""
        return None if self._sheet is None else self._sheet.session

    @property
    def _failure(self) -> Failure | None:
        return None if self._sheet is None else self._sheet.failure

    # Keys ------------------------------------------------------------------------------------------------

    def _keys(self) -> Sequence[tuple[str, str]]:
        paused = self.seen is not None and self.seen.paused
        return (
            ("d", "drain"), ("p", "resume" if paused else "pause"), ("r", "retry"), ("x", "discard"), ("w", "why"),
            ("tab", "list"), ("t", "colours"), ("q", "quit"),
        )  # fmt: skip

    def action_drain(self) -> None:
        unknown = self.seen is not None and self.seen.sessions is None
        none = "Sessions are left out: l says why." if unknown else "There is no session to drain."
        self._ask_first(none, self._session, wishes.to_drain)

    def action_pause(self) -> None:
        paused = self.seen is not None and self.seen.paused
        self._ask_first("", self._source.table, wishes.to_resume if paused else wishes.to_pause)

    def action_retry(self) -> None:
        self._ask_first("There is no failed task to retry.", self._failure, wishes.to_retry)

    def action_discard(self) -> None:
        self._ask_first("There is no failed task to discard.", self._failure, wishes.to_discard)

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
        self.push_screen(KeyField(self._failure.key if self._failure else ""), self._look_at)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_list.id == "failures-rows" and self._failure:
            self._look_at(self._failure.key)

    def _look_at(self, key: str | None) -> None:
        if key is not None:
            self.run_worker(self._tell(key))

    async def _tell(self, key: str) -> None:
        try:
            found: Why = await self._source.ask(lambda connection, table: why(connection, table, key))
        except SessionLockError as error:
            self._say(str(error), bad=True)
            return
        self._open(picture.why_page(found, self.colours))

    def action_left_out(self) -> None:
        if self.seen is None or not self.seen.left_out:
            self._say("Nothing is left out.")
            return
        self._open(Text("\n\n").join(Text(printable(each)) for each in self.seen.left_out))

    def _open(self, text: Text) -> None:
        """A page. What came of an earlier key is no news below it."""
        self._said = Text()
        self.draw()
        self.push_screen(Page(text))

    # The screen itself -----------------------------------------------------------------------------------

    def action_theme(self) -> None:
        self.theme = palette.other(self.theme)
        self._said = Text()
        self.draw()

    def action_interrupt(self) -> None:
        self._interrupt(self)
