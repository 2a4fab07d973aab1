"""The screen of `top`: an overview as it was seen last, and which rows of it are selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from session_lock.cli.common import printable
from session_lock.cli.top import picture
from session_lock.cli.top.lists import FAILURES, SESSIONS, Column, lay
from session_lock.cli.top.palette import Palette
from session_lock.glance import Failure, LiveSession, Overview, Throughput

T = TypeVar("T")

MARK = 2
"""Characters in front of each row: in each list one is selected, also in the one that has not the focus."""

SHORT, SHORT_IF_NARROW = 28, 34
"""Lines; a screen that has fewer gets no empty ones."""

NARROW = 60
"""Columns."""


@dataclass(frozen=True, slots=True)
class Of:
    """One of the two lists."""

    columns: Sequence[Column]
    rows: Callable[[Overview], Sequence[Any]]
    names: Callable[[Sequence[Any]], list[str]]
    """One for each row, by which it is found again in the next look."""


def _names(failures: Sequence[Failure]) -> list[str]:
    """One for each, whatever failed how often."""
    names = [f"{each.key} {each.attempt} {each.at} {each.session}" for each in failures]
    return [f"{name} {names[:i].count(name)}" for i, name in enumerate(names)]


LISTS: Mapping[str, Of] = {
    "sessions": Of(
        SESSIONS, lambda look: look.sessions or (), lambda rows: [str(each.session) for each in rows]
    ),
    "failures": Of(FAILURES, lambda look: look.failures or (), _names),
}


class Sheet(Screen[None]):
    """Nothing of it moves, or is laid out anew, but for what has changed."""

    def __init__(self) -> None:
        super().__init__()
        self._look: Overview | None = None
        self._stands: dict[str, str] = {}
        """What is written where."""

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

    def show(self, look: Overview, throughput: Throughput, colours: Palette) -> None:
        self._look = look
        width = self._width
        self.set_class(self.size.height < (SHORT_IF_NARROW if width < NARROW else SHORT), "short")
        self._put("head", picture.head(look, width, colours))
        self._put("facts", picture.facts(look, throughput, width, colours))
        dropped: list[str] = []
        for name, of in LISTS.items():
            rows = of.rows(look)
            laid = lay(of.columns, rows, look, width - MARK, colours)
            dropped += laid.dropped if rows else ()
            self._put(f"{name}-header", Text(" " * MARK) + laid.header)
            self._fill(self._rows(name), of.names(rows), laid.rows, colours)
            self.query_one(f"#{name}").set_class(not rows, "empty")
        if look.failures and not look.sessions:
            self._rows("failures").focus()
        self._put("sessions-title", picture.sessions_title(look, colours))
        self._put("failures-title", picture.failures_title(look, colours))
        self._put("missing", picture.missing(look, [*dict.fromkeys(dropped)], width, colours))
        why = "" if self.session is None else f"{self.session.session}: {printable(self.session.why)}"
        self._put("why", Text(why, colours.dim))

    def _fill(self, rows: OptionList, names: Sequence[str], lines: Sequence[Text], colours: Palette) -> None:
        at = rows.highlighted
        if names != [option.id for option in rows.options]:
            chosen = None if at is None else rows.get_option_at_index(at).id
            at = names.index(chosen) if chosen in names else 0
            rows.clear_options()
            rows.add_options([Option("", id=name) for name in names])
            rows.highlighted = at if names else None
        for index, line in enumerate(lines):
            style = colours.accent if rows.has_focus else colours.dim
            whole = Text("▸ " if index == at else "  ", style) + line
            if rows.get_option_at_index(index).prompt != whole:
                rows.replace_option_prompt_at_index(index, whole)

    def say(self, said: Text, keys: Sequence[tuple[str, str]], colours: Palette) -> None:
        self._put("said", said)
        self._put("keys", picture.keys(keys, self._width, colours))

    def _put(self, name: str, text: Text) -> None:
        if self._stands.get(name) != (written := text.markup):
            self._stands[name] = written
            self.query_one(f"#{name}", Static).update(text)

    @property
    def _width(self) -> int:
        return self.size.width - 2  # one column at each side stays empty

    # What is selected ------------------------------------------------------------------------------------

    @property
    def session(self) -> LiveSession | None:
        return self._chosen("sessions", (self._look.sessions if self._look else None) or ())

    @property
    def failure(self) -> Failure | None:
        return self._chosen("failures", (self._look.failures if self._look else None) or ())

    def _chosen(self, name: str, rows: Sequence[T]) -> T | None:
        at = self._rows(name).highlighted
        return rows[at] if at is not None and at < len(rows) else None

    def _rows(self, name: str) -> OptionList:
        return self.query_one(f"#{name}-rows", OptionList)
