"""`TaskTable`: which rows are tasks, declared once; and how that becomes the words of our SQL."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from session_lock.errors import SettingsError

NAME_BYTES = 63
"""PostgreSQL cuts longer names, silently."""

BODY_QUOTE = "$function$"
"""What the bodies in `sql/` are quoted with, so no expression of the user's may contain it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimColumns:
    """The names of the four columns that a mapping adds to its table. Two mappings on one table need two sets."""

    session_id: str = "session_id"
    claim_token: str = "claim_token"  # noqa: S105 (a column's name)
    attempts: str = "attempts"
    available_at: str = "available_at"

    def __post_init__(self) -> None:
        names = [getattr(self, each.name) for each in fields(self)]
        for name in names:
            check_name(name, "claim column")
        if len(set(names)) < len(names):
            raise SettingsError(f"claim_columns names a column twice: {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class TaskTable:
    """A mapping: the rows of a table that are things to do, and what makes them done.

    `pending`, `finish` and `discard` are SQL of yours, over the columns of the table by their bare names, reviewed
    like a view's definition: never build them from input. Types and functions outside `pg_catalog` are
    schema-qualified. All names are taken as they are written, upper and lower case included.

        emails = TaskTable("public.email", key="id", pending="sent_at IS NULL", finish="sent_at = now()")
    """

    table: str
    """`schema.table`; the schema defaults to public. A part that contains a dot is put in double quotes."""

    key: str
    """The column that identifies a task: unique, not null, of type smallint, integer, bigint, uuid or text."""

    pending: str
    """The condition for a row being still to do. Immutable (no `now()`: time belongs into `available_at`)."""

    finish: str
    """What the UPDATE that finishes a task sets, such as `sent_at = now()`. It must make the row non-pending."""

    discard: str | None = None
    """What is set when a task is given up. Defaults to None: it is parked instead (`available_at = 'infinity'`)."""

    columns: Sequence[str] = ()
    """The columns that a task's data is made of. Defaults to the key alone."""

    name: str = ""
    """The group that sessions belong to. Defaults to the table's name."""

    order_by: Sequence[str] = ()
    """Columns with an optional ` DESC`; the key is appended. Defaults to `available_at`: first come, first served."""

    claim_columns: ClaimColumns = field(default_factory=ClaimColumns)
    """The names of the four columns that are added."""

    schema: str = "session_lock"
    """Where the sessions and functions live."""

    def __post_init__(self) -> None:
        for attribute in ("columns", "order_by"):
            value = getattr(self, attribute)
            if isinstance(value, str):
                raise SettingsError(f"{attribute} is a sequence of names; write {attribute}=({value!r},)")
            object.__setattr__(self, attribute, tuple(value))
        if isinstance(self.claim_columns, Mapping):
            object.__setattr__(self, "claim_columns", ClaimColumns(**self.claim_columns))
        object.__setattr__(self, "name", self.name or split_name(self.table)[1])
        object.__setattr__(self, "columns", self.columns or (self.key,))
        self._check_names()
        self._check_expressions()

    def _check_names(self) -> None:
        for kind, names in (
            ("table", self.qualified),
            ("key", [self.key]),
            ("column", self.columns),
            ("schema", [self.schema]),
        ):
            for name in names:
                check_name(name, kind)
        check_name(self.name, "mapping")
        if len(set(self.columns)) < len(self.columns):
            raise SettingsError(f"columns names a column twice: {', '.join(self.columns)}")

    def _check_expressions(self) -> None:
        for attribute in ("pending", "finish", "discard"):
            text = getattr(self, attribute)
            if text is not None and not str(text).strip():
                raise SettingsError(f"{attribute} of {self.name!r} is empty")
            if text is not None and not _storable(text):
                raise SettingsError(
                    f"{attribute} of {self.name!r} contains {BODY_QUOTE} or NUL, which it may not"
                )

    @property
    def qualified(self) -> tuple[str, str]:
        """Schema and table, unquoted."""
        return split_name(self.table)

    @property
    def order(self) -> tuple[tuple[str, bool], ...]:
        """(column, descending) in claim order, always ending with the key, which makes it total."""
        given = [split_direction(text) for text in self.order_by] or [
            (self.claim_columns.available_at, False)
        ]
        return (*given, *([] if any(column == self.key for column, _ in given) else [(self.key, False)]))


@dataclass(frozen=True, slots=True)
class Shape:
    """What the catalog knows of a mapping's columns; with the mapping itself it determines all of the SQL."""

    key_type: str
    """As `format_type` prints it: smallint, integer, bigint, uuid or text."""

    column_types: Mapping[str, str]
    """By column: those of `columns` and `order`, as `format_type` prints them."""

    not_null: frozenset[str]
    """The columns among them that cannot be null."""


def function_set(table: TaskTable, shape: Shape) -> str:
    """`name_hash`, the end of the names of a mapping's functions and index.

    The hash covers what the functions' signatures and the index depend on, so a changed mapping is a second set
    beside the first, and instances of both versions work side by side.
    """
    covered = repr((
        table.qualified, table.key, shape.key_type, [(c, shape.column_types[c]) for c in table.columns],
        squeeze(table.pending), [(c, d, shape.column_types[c]) for c, d in table.order], table.claim_columns, table.name,
    ))  # fmt: skip
    digest = hashlib.sha256(covered.encode()).hexdigest()[:8]
    readable = re.sub(r"[^a-z0-9]+", "_", table.name.lower()).strip("_")[:40].rstrip("_") or "tasks"
    return f"{readable}_{digest}"


def index_name(functions: str) -> str:
    """The name of the index that belongs to a set of functions; it lives in the table's schema."""
    return f"pending_{functions}"


def holes(table: TaskTable, shape: Shape) -> dict[str, str]:
    """What the words between double underscores in the files of `sql/` stand for."""
    functions = function_set(table, shape)
    task_schema, _ = table.qualified
    index = quote_name(index_name(functions))
    claim = table.claim_columns
    qualified = ".".join(quote_name(part) for part in table.qualified)
    return {
        "set": f"_{functions}",
        "table": qualified,
        "title": quote_inside_literal(table.name),
        "mark": quote_inside_literal(column_mark(table)),
        "key": quote_name(table.key),
        "key_type": shape.key_type,
        "session_id": quote_name(claim.session_id),
        "claim_token": quote_name(claim.claim_token),
        "attempts": quote_name(claim.attempts),
        "available_at": quote_name(claim.available_at),
        "pending": one_line_safe(table.pending),
        "finish = DEFAULT": one_line_safe(table.finish),
        "discard = DEFAULT": one_line_safe(table.discard or f"{quote_name(claim.available_at)} = 'infinity'"),
        "discards": "true" if table.discard else "false",
        "columns text": ", ".join(
            f"{quote_name(n)} {shape.column_types[c]}" for c, n in output_names(table.columns)
        ),
        "no_columns": ", ".join(f"NULL::{shape.column_types[c]}" for c in table.columns),
        "select_columns": ", ".join(
            f"t.{quote_name(c)} AS column_{i}" for i, c in enumerate(table.columns, 1)
        ),
        "claimed_columns": ", ".join(f"c.column_{i}" for i, _ in enumerate(table.columns, 1)),
        "order_by": ", ".join(f"t.{quote_name(c)}{' DESC' if d else ''}" for c, d in table.order),
        "order_index": ", ".join(f"{quote_name(c)}{' DESC' if d else ''}" for c, d in table.order),
        "due_is_indexed": "true" if table.order[0] == (claim.available_at, False) else "false",
        "position": position(table, shape),
        "from_position": from_position(table, shape),
        "index": index,
        "index_qualified": f"{quote_name(task_schema)}.{index}",
        "index_literal": quote_inside_literal(f"{quote_name(task_schema)}.{index}"),
    }


LEAST = {
    "smallint": "-32768", "integer": "-2147483648", "bigint": "-9223372036854775808",
    "uuid": "00000000-0000-0000-0000-000000000000", "text": "", "character varying": "", "boolean": "false", "date": "-infinity",
    "timestamp with time zone": "-infinity", "timestamp without time zone": "-infinity",
}  # fmt: skip
"""Nothing sorts before these: where a scan without a position begins."""


def has_position(table: TaskTable, shape: Shape) -> bool:
    """Whether a scan in claim order can begin at a remembered place: one direction, no nulls, known least values."""
    return all(not d and c in shape.not_null and shape.column_types[c] in LEAST for c, d in table.order)


def position(table: TaskTable, shape: Shape) -> str:
    if not has_position(table, shape):
        return "NULL::text"
    return f"jsonb_build_array({', '.join(f't.{quote_name(c)}' for c, _ in table.order)})::text"


def from_position(table: TaskTable, shape: Shape) -> str:
    if not has_position(table, shape):
        return "true"
    columns = ", ".join(f"t.{quote_name(c)}" for c, _ in table.order)
    types = [shape.column_types[c] for c, _ in table.order]
    values = ", ".join(
        f"coalesce((my.start::jsonb ->> {i})::{type_}, '{LEAST[type_]}'::{type_})"
        for i, type_ in enumerate(types)
    )
    return f"({columns}) >= ({values})"


ENVELOPE = (
    "kind", "task_key", "task_token", "task_attempt", "outcome", "task_position", "next_due", "lease_left", "task_share",
)  # fmt: skip
"""The first columns of what get_work returns; the mapping's own follow."""


ARGUMENTS = ("p_id", "p_nonce", "p_limit", "p_held", "p_position", "p_over_share", "p_finished", "p_tokens")
"""The parameters of get_work, which share a name space with the columns of its result; `$1` to `$n` are theirs too."""


def output_names(columns: Sequence[str]) -> list[tuple[str, str]]:
    """(column, its name in the result of get_work): its own, unless the result has one of that name already."""
    reserved = {*ENVELOPE, *ARGUMENTS}
    taken = {*reserved, *columns}
    named = []
    for column in columns:
        name = column
        while name in reserved or re.fullmatch(r"\$\d+", name) or (name != column and name in taken):
            name += "_"
        taken.add(name)
        named.append((column, name))
    return named


def column_mark(table: TaskTable) -> str:
    """What the comments of our columns begin with: how a column of ours is told from one of the user's."""
    return f"session_lock {table.name}"


# Text to SQL: the only three ways --------------------------------------------------------------------


def quote_name(name: str) -> str:
    """An identifier. Always quoted, so no word list and no case rule can turn it into another one."""
    return '"' + name.replace('"', '""') + '"'


def quote_inside_literal(text: str) -> str:
    """Text for a place between single quotes, or in a comment of one line, inside a dollar-quoted body."""
    return re.sub(r"\s+", " ", text).replace("'", "''").replace(BODY_QUOTE, "")


def one_line_safe(expression: str) -> str:
    """An expression of the user's: a line end behind it, in case it ends in a `--` comment."""
    return f"{expression.strip()}\n" if "--" in expression else expression.strip()


# Text from the user ----------------------------------------------------------------------------------


def check_name(name: str, kind: str) -> None:
    if not isinstance(name, str) or not _storable(name) or not 0 < len(name.encode()) <= NAME_BYTES:
        raise SettingsError(
            f"{kind} name {name!r} must have 1 to {NAME_BYTES} bytes, without NUL and {BODY_QUOTE}"
        )


def _storable(text: str) -> bool:
    """No half of a surrogate pair, no NUL, nothing that would end a function's body."""
    return BODY_QUOTE not in text and not re.search("[\0\ud800-\udfff]", text)


def split_name(text: str) -> tuple[str, str]:
    """(schema, table) of `schema.table`, `table`, `"a.b"."c"`."""
    part = r'"(?:[^"]|"")+"|[^."]+'
    if not (match := re.fullmatch(rf"(?:({part})\.)?({part})", text)):
        raise SettingsError(
            f'table={text!r} is not "table" or "schema.table" (put a part with a dot in double quotes)'
        )
    schema, table = (
        name[1:-1].replace('""', '"') if name[:1] == '"' else name
        for name in (match[1] or "public", match[2])
    )
    return schema, table


def split_direction(text: str) -> tuple[str, bool]:
    column, direction = re.fullmatch(
        r"(.*?)(?:\s+(asc|desc))?", text.strip(), re.IGNORECASE | re.DOTALL
    ).groups()  # type: ignore[union-attr]
    check_name(column, "order_by column")
    return column, (direction or "").lower() == "desc"


def squeeze(expression: str) -> str:
    """White space outside of quotes does not make another mapping."""
    return "".join(
        part if part[:1] in "'\"" else re.sub(r"\s+", " ", part)
        for part in re.split(r"('[^']*'|\"[^\"]*\")", expression.strip())
    )
