"""The order in which tasks are claimed, and a position in it from which a look may begin."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, takewhile
from string import ascii_lowercase

from session_lock.names import quote_name
from session_lock.table import Shape, TaskTable

ENDS = {
    "smallint": ("-32768", "32767"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
    "real": ("-Infinity", "NaN"),
    "double precision": ("-Infinity", "NaN"),
    "boolean": ("false", "true"),
    "date": ("-infinity", "infinity"),
    "timestamp without time zone": ("-infinity", "infinity"),
    "timestamp with time zone": ("-infinity", "infinity"),
    "uuid": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "text": ("", None),
    "character varying": ("", None),
}
"""The least and the greatest value of a type, where it has them: a look without a position begins in front of all tasks."""


def order_by(table: TaskTable, alias: str = "") -> str:
    return ", ".join(f"{alias}{quote_name(c)}{' DESC' if d else ''}" for c, d in table.order)


def why_no_position(table: TaskTable, shape: Shape) -> str | None:
    """What keeps a look from beginning at a position; None if it can."""
    for column, descending in table.order:
        type_ = shape.column_types[column]
        if column not in shape.not_null:
            return f"{column} may be NULL"
        if ENDS.get(type_, (None, None))[descending] is None:
            return f"{column} is {type_}{', descending' if descending else ''}"
    return None


def position(table: TaskTable, shape: Shape) -> str:
    """That of the row `t`, as text."""
    if why_no_position(table, shape):
        return "NULL::text"
    return f"jsonb_build_array({', '.join(f't.{quote_name(c)}' for c, _ in table.order)})::text"


def parts_of_look(table: TaskTable, shape: Shape) -> list[tuple[str, str]]:
    """The conditions of what lies from `my.start` on, in parts that follow each other; with each, what ends it at `my.until`.

    One, if all columns are of one direction: an index can begin at a row of values. Where the direction changes, what is equal
    before the change comes first, and then what is beyond that.
    """
    if why_no_position(table, shape):
        return [("true", "true")]
    columns = [
        _Column(number, f"t.{quote_name(name)}", shape.column_types[name], descending)
        for number, (name, descending) in enumerate(table.order)
    ]
    runs = [list(run) for _, run in groupby(columns, key=lambda column: column.descending)]
    parts: list[tuple[str, str]] = []
    for last in reversed(range(len(runs))):
        before, run = [column for each in runs[:last] for column in each], runs[last]
        equal = [f"{_names(each)} = {_row(c.since('my.start') for c in each)}" for each in runs[:last]]
        more = f"{'<' if run[0].descending else '>'}{'=' if last == len(runs) - 1 else ''}"
        begin = " AND ".join([*equal, f"{_names(run)} {more} {_row(c.since('my.start') for c in run)}"])
        parts.append((begin, _end(run, before, is_last=last == len(runs) - 1)))
    return parts


def has_ends(table: TaskTable, shape: Shape) -> bool:
    """Whether a look can end at a position, and not only begin at one."""
    return parts_of_look(table, shape)[0][1] != "true"


def _end(run: list[_Column], before: list[_Column], *, is_last: bool) -> str:
    """Where an index may end. It leaves out nothing that stands between the two positions; what stands behind it may let through.

    The last part ends at the columns up to the first whose type has no last value. Where what comes `before` it is the same in both
    positions, the other parts are of nothing; where it is not, all of them are taken whole. (A second bound of one and the same column was
    seen to lose the index, beside one filter more, on a table without statistics.)
    """
    same = ""
    if before or not is_last:
        columns = before if is_last else [*before, *run]
        same = f"{_row(c.since('my.start') for c in columns)} = {_row(c.since('my.until') for c in columns)}"
    if not is_last:
        return f"(my.until IS NULL OR NOT {same})"
    known = list(takewhile(lambda column: column.last is not None, run))
    if not known:
        return "true"
    until = f"(CASE WHEN {same} THEN my.until END)" if same else "my.until"
    return f"{_names(known)} {'>' if run[0].descending else '<'}= {_row(c.to(until) for c in known)}"


def _names(columns: list[_Column]) -> str:
    return _row(column.name for column in columns)


def _row(values: Iterable[str]) -> str:
    return f"({', '.join(values)})"


@dataclass(frozen=True)
class _Column:
    """Of the order."""

    number: int
    name: str
    type: str
    descending: bool

    @property
    def last(self) -> str | None:
        return ENDS[self.type][not self.descending]

    def since(self, position: str) -> str:
        """Its value there; where there is no position, the first that it can have."""
        return self._value(position, ENDS[self.type][self.descending])

    def to(self, position: str) -> str:
        """Its value there; where there is no position, the last that it can have."""
        return self._value(position, self.last)

    def _value(self, position: str, otherwise: str | None) -> str:
        return f"coalesce(({position}::jsonb ->> {self.number})::{self.type}, '{otherwise}'::{self.type})"


PART = re.compile(r"( *)-- for each part of the order\n(.*?)\n *-- as far as here(?=\n)", re.DOTALL)

LETTERS = ("", *(f"_{letter}" for letter in ascii_lowercase[1:]))


def part_holes(parts: list[tuple[str, str]]) -> dict[str, str]:
    """The words for the holes of each part."""
    words: dict[str, str] = {}
    for letter, (begin, end) in zip(LETTERS, parts, strict=False):
        words |= {f"from_position{letter}": begin, f"until_position{letter}": end}
    return words


def for_each_part(text: str, parts: int) -> str:
    """A source in which what is there for each part of the order is written as often as there are parts, each with its own holes."""

    def repeated(match: re.Match[str]) -> str:
        return f"\n{match[1]}UNION ALL\n".join(
            re.sub(r"(?<=__)(from|until)_position(?=__)", rf"\g<0>{letter}", match[2])
            for letter in LETTERS[:parts]
        )

    return PART.sub(repeated, text)
