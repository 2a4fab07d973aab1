"""What a model of SQLAlchemy or Django says of its table, and its expressions, in the words of a mapping.

Neither is imported before a model of it is given: it tells by the names of its classes what it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, Protocol

from session_lock.drivers import lineage
from session_lock.errors import SettingsError
from session_lock.names import as_sequence, quote_name, split_direction

KEY_TYPE = re.compile(
    r"(smallint|integer|bigint|uuid|text|(varchar|character varying)(\(\d+\))?)", re.IGNORECASE
)


class Model(Protocol):
    """A model, whatever layer it is of."""

    name: str
    """As errors call it."""

    layer: str
    unwritten: str
    """How else a column is kept from being written, in words."""

    now: str
    """How the server's time is written in its layer."""

    condition: str
    """What a condition looks like in its layer."""

    schema: str | None
    table: str

    keys: list[str]
    """The columns of its primary key."""

    def columns(self) -> Mapping[str, str]:
        """The columns of the table, by the names that they go by: their own, and those of the model's attributes."""
        ...

    def written(self) -> Mapping[str, str]:
        """The columns that its layer writes, each with the attribute that it is written from."""
        ...

    def column_of(self, given: Any) -> str | None:
        """What an attribute stands for; None: it is none of this model."""
        ...

    def type_of(self, column: str) -> str:
        """As PostgreSQL calls it."""
        ...

    def direction_of(self, given: Any) -> tuple[Any, bool]:
        """What an element of an order is over, and whether it goes down."""
        ...

    def is_query(self, given: Any) -> bool:
        """Whether it is a query over a model, where what that filters by is wanted."""
        ...

    def expression(self, given: Any) -> str | None:
        """The SQL of a condition or another expression, over bare names; None: it is none of this layer."""
        ...

    def value(self, column: str, given: Any) -> str:
        """The SQL of what a column is set to, in the column's type."""
        ...


def read_model(
    given: Any,
    *,
    key: Any,
    columns: Any,
    order_by: Any,
    fair_by: Any,
    limits: Any,
    expressions: Mapping[str, Any],
    assignments: Mapping[str, Any],
    claimed: Mapping[str, str],
) -> dict[str, Any]:
    """What `TaskTable` is to be called with. `SettingsError` says what of the model, or of what was said of it, cannot be.

    `claimed`: the names of the claim columns.
    """
    model = _known(given)
    _refuse_claimed(model, claimed)
    return {
        "table": ".".join(map(_part, filter(None, (model.schema, model.table)))),
        "key": _key(model, key),
        "columns": [_column(model, each, "columns") for each in as_sequence(columns, "columns")],
        "order_by": [_ordered(model, each, claimed) for each in as_sequence(order_by, "order_by")],
        "fair_by": None if fair_by is None else _column(model, fair_by, "fair_by"),
        "limits": [_limited(model, each) for each in limits] if isinstance(limits, list | tuple) else limits,
        **{role: _expression(model, each, role) for role, each in expressions.items()},
        **{role: _assignments(model, each, role) for role, each in assignments.items()},
    }


def _known(given: Any) -> Model:
    if isinstance(given, type) and hasattr(given, "__mapper__"):
        _check_version("sqlalchemy", 2, 0)
        from session_lock.models.sqlalchemy import SQLAlchemyModel  # noqa: PLC0415 (only with a model of it)

        return SQLAlchemyModel(given)
    if ("django", "ModelBase") in lineage(given):
        _check_version("django", 4, 2)
        from session_lock.models.django import DjangoModel  # noqa: PLC0415

        return DjangoModel(given)
    name = given.__name__ if isinstance(given, type) else f"a {type(given).__name__}"
    raise SettingsError(
        f"from_model takes a declarative model of SQLAlchemy or a model of Django, not {name}: "
        "write TaskTable(..) for any other table"
    )


def _refuse_claimed(model: Model, claimed: Mapping[str, str]) -> None:
    """An ORM that knows them writes what it has read, also when they are another's since, and fails at `infinity`, as what is parked has it."""
    written = model.written()
    for role, column in claimed.items():
        if column in written:
            raise SettingsError(
                f"{model.name}.{written[column]} is the claim column {column!r} of this mapping, which {model.layer} would write, or fail to read: take it out of "
                f"the model{model.unwritten}, and read it by SQL such as NULLIF(available_at, 'infinity'); if it is a column of yours, give that of the "
                f"mapping another name, claim_columns={{{role!r}: ..}}"
            )


def _check_version(layer: str, *least: int) -> None:
    found = version(layer)
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < least:
        raise SettingsError(
            f"from_model needs {layer} {'.'.join(map(str, least))} or later, and {found} is installed: pip install 'session-lock[{layer}]'"
        )


def _part(name: str) -> str:
    return name if re.fullmatch(r'[^."]+', name) else quote_name(name)


def _key(model: Model, given: Any) -> str:
    if given is not None:
        key = _column(model, given, "key")
    elif len(model.keys) == 1:
        (key,) = model.keys
    else:
        raise SettingsError(
            f"the primary key of {model.name} has {len(model.keys)} columns ({', '.join(model.keys)}), and a task needs one: "
            "name a column that is unique by itself by key="
        )
    if not KEY_TYPE.fullmatch(kind := model.type_of(key)):
        raise SettingsError(
            f"the key {model.name}.{key} is of type {kind}: a key is smallint, integer, bigint, uuid, text or varchar; "
            "name another one by key="
        )
    return key


def _column(model: Model, given: Any, role: str) -> str:
    known = model.columns()
    if isinstance(given, str):
        if given in known:
            return known[given]
        close = get_close_matches(given, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"the table of {model.name} has no column {given!r} (named by {role}=){hint}")
    column = model.column_of(given)
    if column is None:
        raise SettingsError(f"{role} names {given}, which is no column in the table of {model.name}")
    return column


def _ordered(model: Model, given: Any, claimed: Mapping[str, str]) -> str:
    column, down = split_direction(given) if isinstance(given, str) else (given, False)
    column, down = (column, True) if down else model.direction_of(column)
    if not (isinstance(column, str) and column in claimed.values()):
        column = _column(model, column, "order_by")
    return f"{column} DESC" if down else str(column)


def _limited(model: Model, given: Any) -> Any:
    by = getattr(given, "by", None)
    return given if by is None else replace(given, by=_column(model, by, "by"))


def _expression(model: Model, given: Any, role: str) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if model.is_query(given):
        raise SettingsError(
            f"{role} of {model.name} is a query: give the condition itself, such as {model.condition}"
        )
    text = model.expression(given)
    if text is None:
        raise SettingsError(f"{role} of {model.name} is text or an expression of its layer, not {given!r}")
    return text


def _assignments(model: Model, given: Any, role: str) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, Mapping) or not given:
        other = "a query" if model.is_query(given) else repr(given)  # to print one would ask the database
        raise SettingsError(
            f"{role} of {model.name} is text, or what each column is set to, such as {{'sent_at': {model.now}}}, not {other}"
        )
    parts: list[str] = []
    for target, value in given.items():
        column = _column(model, target, role)
        if isinstance(value, date):
            raise SettingsError(
                f"{role} of {model.name} would set {column} to the time at which this was declared: write {model.now}"
            )
        if callable(value):
            raise SettingsError(
                f"{role} of {model.name} would set {column} to {getattr(value, '__name__', type(value).__name__)}, which is to be called first: "
                f"write {model.now} for the time"
            )
        parts.append(f"{quote_name(column)} = {model.value(column, value)}")
    return ", ".join(parts)
