"""The order in which tasks are claimed, and a position in it from which a look may begin."""

from __future__ import annotations

import re
from itertools import groupby
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


def parts_from_position(table: TaskTable, shape: Shape) -> list[str]:
    """The conditions of what lies from `my.start` on, in parts that follow each other.

    One, if all columns are of one direction: an index can begin at a row of values. Where the direction changes, what is equal
    before the change comes first, and then what is beyond that.
    """
    if why_no_position(table, shape):
        return ["true"]
    runs: list[tuple[bool, str, str]] = []
    for descending, columns in groupby(enumerate(table.order), key=lambda each: each[1][1]):
        names, values = [], []
        for number, (column, _) in columns:
            type_ = shape.column_types[column]
            names.append(f"t.{quote_name(column)}")
            values.append(
                f"coalesce((my.start::jsonb ->> {number})::{type_}, '{ENDS[type_][descending]}'::{type_})"
            )
        runs.append((descending, f"({', '.join(names)})", f"({', '.join(values)})"))
    conditions = []
    for last in reversed(range(len(runs))):
        equal = [f"{names} = {values}" for _, names, values in runs[:last]]
        descending, row, bound = runs[last]
        beyond = f"{'<' if descending else '>'}{'=' if last == len(runs) - 1 else ''}"
        conditions.append(" AND ".join([*equal, f"{row} {beyond} {bound}"]))
    return conditions


PART = re.compile(r"( *)-- for each part of the order\n(.*?)\n *-- as far as here(?=\n)", re.DOTALL)

HOLES = ("from_position", *(f"from_position_{letter}" for letter in ascii_lowercase[1:]))


def for_each_part(text: str, parts: int) -> str:
    """A source in which what is there for each part of the order is written as often as there are parts, each with its own hole."""

    def repeated(match: re.Match[str]) -> str:
        return f"\n{match[1]}UNION ALL\n".join(
            match[2].replace("__from_position__", f"__{hole}__") for hole in HOLES[:parts]
        )

    return PART.sub(repeated, text)
