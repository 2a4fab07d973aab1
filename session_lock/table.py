"""`TaskTable`: which rows are tasks, and what makes them done; declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from session_lock.errors import SettingsError
from session_lock.limits import AnyLimit, Rules, as_limits, rules_of
from session_lock.models import read_model
from session_lock.names import (
    BODY_QUOTE,
    as_sequence,
    check_name,
    is_storable,
    quote_name,
    split_direction,
    split_name,
)
from session_lock.versions import check_readable


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimColumns:
    """The names of the four columns that a mapping adds to its table. Two mappings on one table need two sets.

    ```python
    TaskTable(
        "mail", name="reminders", key="id", pending="reminded_at IS NULL", finish="reminded_at = now()",
        claim_columns=ClaimColumns(session_id="r_session", claim_token="r_token", attempts="r_attempts", available_at="r_at"),
    )
    ```
    """

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


def claim_columns(names: ClaimColumns | Mapping[str, str]) -> ClaimColumns:
    """As they are, or from a mapping such as `{"session_id": "mail_session"}`."""
    if isinstance(names, ClaimColumns):
        return names
    given: object = names
    if not isinstance(given, Mapping):
        raise SettingsError(
            f"claim_columns is a ClaimColumns(..), or a mapping such as {{'session_id': 'mail_session'}}, not {given!r}"
        )
    known = {each.name for each in fields(ClaimColumns)}
    if wrong := sorted(set(names) - known, key=repr):
        raise SettingsError(f"claim_columns has no {wrong[0]!r}: its keys are {', '.join(sorted(known))}")
    return ClaimColumns(**names)


class _ClaimColumnsOrMapping:
    """What type checkers are told of a field: it may be given as a mapping, and is `ClaimColumns` ever after."""

    def __get__(self, table: object, kind: type | None = None) -> ClaimColumns:
        raise NotImplementedError

    def __set__(self, table: object, given: ClaimColumns | Mapping[str, str]) -> None: ...


def _as_they_are() -> Any:
    return ClaimColumns()


@dataclass(frozen=True, slots=True)
class TaskTable:
    """A mapping: the rows of a table that are things to do, and what makes them done.

    `pending`, `finish` and `discard` are SQL of yours, over the columns of the table by their bare names, reviewed
    like a view's definition: never build them from input. Types and functions outside `pg_catalog` are
    schema-qualified. All names are taken as they are written, upper and lower case included. `SettingsError` says what cannot be.

    ```python
    TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()", columns=["address"])
    ```
    """

    table: str
    """`schema.table`; the schema defaults to public. A part that contains a dot is put in double quotes."""

    key: str
    """The column that identifies a task: unique, not null, of type smallint, integer, bigint, uuid, text or varchar."""

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

    claim_columns: _ClaimColumnsOrMapping = field(default_factory=_as_they_are)
    """The names of the four columns that are added: `ClaimColumns`, or a mapping of those that are to have another one."""

    limits: Sequence[AnyLimit] = ()
    """`Limit` and `Rate`: how many tasks may be held at once, or started in a time. Defaults to none."""

    fair_by: str | None = None
    """A column whose values take turns, so that a few tasks of one do not wait for the many of another."""

    accepts: str | None = None
    """The least `app_version` of a Runner that may be given this row, as text (SQL like `pending`), such as
    `CASE kind WHEN 'refund' THEN '2.4' END`; NULL: any. Defaults to None: nothing is asked."""

    schema: str = "session_lock"
    """Where the sessions and functions live."""

    made_by: str = field(default="", repr=False)
    """Of a table that the library ships: the files `sql/{made_by}.*.sql` make it. Leave it out for tables of yours."""

    @classmethod
    def from_model(
        cls, model: Any, *, pending: Any, finish: Any, discard: Any = None, accepts: Any = None, key: Any = None,
        columns: Sequence[Any] = (), order_by: Sequence[Any] = (), fair_by: Any = None, limits: Sequence[AnyLimit] = (),
        table: str = "", **others: Any,
    ) -> TaskTable:  # fmt: skip
        """The mapping of a model's table: a declarative one of SQLAlchemy 2, or one of Django.

        Table and key are the model's, if that is a single column; `table=` names another one, such as `app.mail` for a model that finds its schema by the
        search_path, which is taken for public here. Columns are given as the model's attributes, or by name;
        `pending` and `accepts` as expressions; `finish` and `discard` as what each column is set to. They are compiled here, once,
        with their values. Text is taken as it is; all that is not named here is as for any `TaskTable`.

        ```python
        TaskTable.from_model(Mail, pending=Mail.sent_at.is_(None), finish={Mail.sent_at: func.now()})  # SQLAlchemy
        TaskTable.from_model(Letter, pending=Q(sent_at=None), finish={"sent_at": Now()})  # Django
        ```
        """
        expressions, assignments = (
            {"pending": pending, "accepts": accepts},
            {"finish": finish, "discard": discard},
        )
        claim = others.get("claim_columns", {})
        read = read_model(
            model, key=key, columns=columns, order_by=order_by, fair_by=fair_by, limits=limits,
            expressions=expressions, assignments=assignments,
            claimed=asdict(claim_columns(claim)),
        )  # fmt: skip
        return cls(**{**read, "table": table or read["table"]}, **others)

    def __post_init__(self) -> None:
        for attribute in ("table", "key", "pending", "finish", "name", "schema"):
            if not isinstance(getattr(self, attribute), str):
                raise SettingsError(f"{attribute} of a TaskTable is text, not {getattr(self, attribute)!r}")
        object.__setattr__(self, "limits", as_limits(self.limits))
        for attribute in ("columns", "order_by"):
            object.__setattr__(self, attribute, as_sequence(getattr(self, attribute), attribute))
        object.__setattr__(self, "claim_columns", claim_columns(self.claim_columns))
        object.__setattr__(self, "name", self.name or split_name(self.table)[1])
        object.__setattr__(self, "columns", self.columns or (self.key,))
        self._check_names()
        self._check_expressions()
        self._check_limits()

    def __repr__(self) -> str:
        """As it would be declared: what is left at its default is left out."""
        standard = {
            "name": self.qualified[1],
            "columns": (self.key,),
            "order_by": (),
            "limits": (),
            "claim_columns": ClaimColumns(),
            "schema": "session_lock",
            "made_by": "",
        }
        told = {
            each.name: getattr(self, each.name)
            for each in fields(self)[1:]
            if getattr(self, each.name) != standard.get(each.name)
        }
        if "claim_columns" in told:
            told["claim_columns"] = {
                each.name: getattr(self.claim_columns, each.name)
                for each in fields(ClaimColumns)
                if getattr(self.claim_columns, each.name) != each.default
            }
        return f"TaskTable({', '.join([repr(self.table), *(f'{name}={value!r}' for name, value in told.items())])})"

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
        for attribute in ("pending", "finish", "discard", "accepts"):
            text = getattr(self, attribute)
            if text is not None and not isinstance(text, str):
                raise SettingsError(f"{attribute} of {self.name!r} is text, not {text!r}")
            if text is not None and not text.strip():
                raise SettingsError(f"{attribute} of {self.name!r} is empty")
            if text is not None and not is_storable(text):
                raise SettingsError(
                    f"{attribute} of {self.name!r} contains {BODY_QUOTE} or NUL, which it may not"
                )

    def _check_limits(self) -> None:
        if self.fair_by is not None:
            check_name(self.fair_by, "fair_by column")
        rules = self.rules
        claim = [getattr(self.claim_columns, each.name) for each in fields(self.claim_columns)]
        if rules.column in claim:
            raise SettingsError(f"limits and fair_by of {self.name!r} name the claim column {rules.column!r}")
        if rules.ordered and self.claim_columns.available_at in [column for column, _ in self.order]:
            raise SettingsError(
                f"{self.name!r} has an ordered limit, and a retry moves {self.claim_columns.available_at!r}: "
                "name an order that stays, such as order_by=('created_at',) or the key"
            )

    @property
    def rules(self) -> Rules:
        """`limits` and `fair_by`, each in its place."""
        return rules_of(self.limits, self.fair_by)

    @property
    def qualified(self) -> tuple[str, str]:
        """Schema and table, unquoted."""
        return split_name(self.table)

    @property
    def quoted(self) -> str:
        """The same as SQL names it."""
        return ".".join(quote_name(part) for part in self.qualified)

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
    """As `format_type` prints it: smallint, integer, bigint, uuid, text or character varying."""

    column_types: Mapping[str, str]
    """By column: those of `columns`, `order`, `limits` and `fair_by`, as `format_type` prints them."""

    not_null: frozenset[str]
    """The columns among them that cannot be null."""

    partitions: tuple[tuple[str, str], ...] | None = None
    """Of a partitioned table: schema and name of each partition that holds rows, by name. None: it is an ordinary table."""


def check_app_version(table: TaskTable | None, app_version: str) -> None:
    """`SettingsError` if the mapping asks for a version and this one cannot be read."""
    if table is not None and table.accepts is not None:
        check_readable(app_version, table.name)


def install_command(table: TaskTable) -> str:
    """What installs the mapping. Where it is declared only its author knows, but for the one that is ours."""
    ours = table.made_by == "duties" and table.schema == "session_lock"
    return f"session-lock install {'session_lock.duties:DUTIES' if ours else 'MODULE:ATTRIBUTE'}"
