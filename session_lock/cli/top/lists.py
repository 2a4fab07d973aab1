"""The two lists of `top`, sessions and failures: as many columns of them as there is room for. They know no screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from session_lock.cli.common import printable
from session_lock.cli.top.palette import Palette
from session_lock.glance import Failure, LiveSession, Overview

SHORT_LEASE = 10.0
"""Seconds, from which on a lease is shown as a short one."""

GAP = 2
"""Characters between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a list. Those with the highest `goes` are dropped first where it is narrow; 0 stays."""

    name: str
    goes: int
    cell: Callable[[Any, Overview, Palette], Text]
    right: bool = False
    rest: int = 0
    """It takes what width is left, if that is so many characters at least."""


def _number(name: str) -> Callable[[Any, Overview, Palette], Text]:
    return lambda row, _, colours: Text(f"{getattr(row, name):,}", colours.text)


def _name(name: str) -> Callable[[Any, Overview, Palette], Text]:
    return lambda row, _, colours: Text(printable(str(getattr(row, name)), 24), colours.text)


def _state_of(row: LiveSession, _: Overview, colours: Palette) -> Text:
    styles = {"live": colours.good, "draining": colours.warn, "expired": f"bold {colours.bad}"}
    return Text(row.state, styles.get(row.state, colours.dim))


def _lease(row: LiveSession, _: Overview, colours: Palette) -> Text:
    if row.lease_left is None:
        return Text("-", colours.dim)
    if row.lease_left < 0:
        return Text("over", f"bold {colours.bad}")
    return Text(brief(row.lease_left), colours.warn if row.lease_left < SHORT_LEASE else colours.text)


def _beat(row: LiveSession, _: Overview, colours: Palette) -> Text:
    return Text("-", colours.dim) if row.beat_age is None else Text(brief(row.beat_age), colours.text)


def _error(row: Failure, _: Overview, colours: Palette) -> Text:
    return Text(printable(row.error.partition("\n")[0]), colours.text)


def _holder_of(row: Failure, _: Overview, colours: Palette) -> Text:
    return Text("-", colours.dim) if row.session is None else Text(str(row.session), colours.text)


def _ago(row: Failure, look: Overview, colours: Palette) -> Text:
    return Text(brief((look.at - row.at).total_seconds()), colours.text)


SESSIONS = (
    Column("session", 0, lambda row, _, colours: Text(str(row.session), colours.text), right=True),
    Column("label", 2, _name("label")),
    Column("version", 6, _name("app_version")),
    Column("state", 0, _state_of),
    Column("held", 0, _number("held"), right=True),
    Column("running", 0, _number("running"), right=True),
    Column("share", 4, _number("target"), right=True),
    Column("capacity", 5, _number("capacity"), right=True),
    Column("keepalive", 3, _beat, right=True),
    Column("lease", 1, _lease, right=True),
)

FAILURES = (
    Column("task", 0, lambda row, _, colours: Text(printable(row.key, 36), colours.text)),
    Column("attempt", 2, _number("attempt"), right=True),
    Column("ago", 1, _ago, right=True),
    Column("held by", 3, _holder_of, right=True),
    Column("error", 0, _error, rest=12),
)


@dataclass(frozen=True, slots=True)
class Laid:
    """A list as it fits."""

    header: Text
    rows: Sequence[Text]
    dropped: Sequence[str]
    """Names of the columns for which there was no room."""


def lay(columns: Sequence[Column], rows: Sequence[Any], look: Overview, width: int, colours: Palette) -> Laid:
    """As many columns as `width` has room for, a line for each row. A column that says nothing of any row is none."""
    cells = {each.name: [each.cell(row, look, colours) for row in rows] for each in columns}
    widths = {
        each.name: each.rest or max(len(each.name), *(cell.cell_len for cell in cells[each.name]), 0)
        for each in columns
    }
    columns = [each for each in columns if not rows or any(cell.plain for cell in cells[each.name])]
    kept = list(columns)
    while _spare(kept, widths, width) < 0 and (first := max(kept, key=lambda each: each.goes)).goes:
        kept.remove(first)
    for each in kept:
        widths[each.name] += max(_spare(kept, widths, width), 0) if each.rest else 0
    return Laid(
        header=_line([(each, Text(each.name, colours.dim)) for each in kept], widths),
        rows=[_line([(each, cells[each.name][i]) for each in kept], widths) for i in range(len(rows))],
        dropped=[each.name for each in columns if each not in kept],
    )


def _spare(columns: Sequence[Column], widths: Mapping[str, int], width: int) -> int:
    return width - sum(widths[each.name] for each in columns) - GAP * (len(columns) - 1)


def _line(cells: Sequence[tuple[Column, Text]], widths: Mapping[str, int]) -> Text:
    for column, cell in cells:
        width = widths[column.name]
        cell.truncate(width, overflow="ellipsis")
        missing = width - cell.cell_len
        (cell.pad_left if column.right else cell.pad_right)(missing)
    return Text(" " * GAP).join(cell for _, cell in cells)


def brief(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
