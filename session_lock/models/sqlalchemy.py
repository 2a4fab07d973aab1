"""A declarative model of SQLAlchemy 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BindParameter, ClauseElement, ColumnClause, UnaryExpression
from sqlalchemy.sql.selectable import SelectBase

from session_lock.errors import SettingsError
from session_lock.models.moments import refuse_now


class SQLAlchemyModel:
    layer = "SQLAlchemy"
    unwritten = " (from a Table that is reflected, by exclude_properties)"
    now = "func.now()"
    condition = "Mail.sent_at.is_(None)"

    def __init__(self, model: Any) -> None:
        mapper: Any = sqlalchemy.inspect(model)
        self.name: str = model.__name__
        if mapper.inherits is not None and mapper.local_table is mapper.inherits.local_table:
            raise SettingsError(
                f"{self.name} has its rows in the table of {mapper.inherits.class_.__name__}: give that to from_model, and "
                "say in pending which of them are tasks"
            )
        if not isinstance(mapper.local_table, sqlalchemy.Table):
            raise SettingsError(
                f"{self.name} is not mapped to one table: write TaskTable(..) for the table that is meant"
            )
        self._mapper = mapper
        self._table: sqlalchemy.Table = mapper.local_table
        self.schema: str | None = self._table.schema
        self.table: str = self._table.name
        self.keys: list[str] = [column.name for column in self._table.primary_key]

    def columns(self) -> Mapping[str, str]:
        attributes = {attribute: column for column, attribute in self.written().items()}
        return {**{column.name: column.name for column in self._table.columns}, **attributes}

    def written(self) -> Mapping[str, str]:
        # One of a child's may be over a column of its own table and one of its parent's.
        return {
            column.name: each.key
            for each in self._mapper.column_attrs
            for column in each.columns
            if self._owns(column)
        }

    def column_of(self, given: Any) -> str | None:
        column = _clause(given)
        return column.name if isinstance(column, ColumnClause) and self._owns(column) else None

    def type_of(self, column: str) -> str:
        # A collation is no part of a type, other than in SQLAlchemy.
        return str(self._named(column).type.compile(dialect=_dialect())).partition(" COLLATE ")[0]

    def direction_of(self, given: Any) -> tuple[Any, bool]:
        if isinstance(given, UnaryExpression) and given.modifier in {operators.asc_op, operators.desc_op}:
            return given.element, given.modifier is operators.desc_op
        return given, False

    def is_query(self, given: Any) -> bool:
        return isinstance(_clause(given), SelectBase)

    def expression(self, given: Any) -> str | None:
        clause = _clause(given)
        return None if clause is None else self._compiled(clause)

    def value(self, column: str, given: Any) -> str:
        clause = _clause(given)
        if clause is None:
            clause = (
                sqlalchemy.null() if given is None else sqlalchemy.literal(given, self._named(column).type)
            )
        return self._compiled(clause)

    def _named(self, column: str) -> sqlalchemy.Column[Any]:
        return next(each for each in self._table.columns if each.name == column)

    def _owns(self, column: Any) -> bool:
        return bool(self._table.columns.contains_column(column))

    def _compiled(self, clause: ClauseElement) -> str:
        for part in visitors.iterate(clause):
            self._refuse(part)
        whole: Any = clause
        whole = visitors.replacement_traverse(whole, {}, _typed)
        try:
            return str(
                whole.compile(
                    dialect=_dialect(), compile_kwargs={"literal_binds": True, "include_table": False}
                )
            )
        except SQLAlchemyError as error:
            reason = str(error).partition("\n")[0]
            raise SettingsError(
                f"an expression of {self.name} cannot be compiled ({reason}): write it as text"
            ) from error

    def _refuse(self, part: Any) -> None:
        # Names are bare in our SQL, so that those of another table would be taken for the model's own.
        if isinstance(part, SelectBase):
            raise SettingsError(
                f"an expression of {self.name} has a subquery: write it as text, with aliases of your own"
            )
        if isinstance(part, ColumnClause) and part.table is not None and not self._owns(part):
            raise SettingsError(f"an expression of {self.name} names {part}, which is no column of its table")
        if isinstance(part, BindParameter):
            self._refuse_value(part)

    def _refuse_value(self, part: BindParameter[Any]) -> None:
        if part.required:
            raise SettingsError(f"an expression of {self.name} has a parameter {part.key!r} without a value")
        value: Any = part.effective_value
        if part.expanding and not value:
            raise SettingsError(
                f"an expression of {self.name} asks what is in an empty list, which nothing is: mend it, or write it as text"
            )
        for each in value if part.expanding else [value]:
            refuse_now(self.name, each, self.now)


def _typed(element: Any, **kw: Any) -> Any:  # noqa: ARG001 (as it is called)
    """An empty array with its type, which PostgreSQL could not guess; None, by which all else is left as it is."""
    is_array = isinstance(element, BindParameter) and isinstance(element.type, sqlalchemy.ARRAY)
    return sqlalchemy.cast(element, element.type) if is_array and _is_empty(element.effective_value) else None


def _is_empty(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_empty, value))


def _clause(given: Any) -> ClauseElement | None:
    clause = given.__clause_element__() if hasattr(given, "__clause_element__") else given
    return clause if isinstance(clause, ClauseElement) else None


def _dialect() -> PGDialect:
    """As the text is to stand in the database: no placeholders, so no `%` that is doubled, and no backslash that is one."""
    dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect._backslash_escapes = False  # noqa: SLF001 (standard_conforming_strings, which it would ask a server for)
    return dialect
