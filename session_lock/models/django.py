"""A model of Django."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import (
    AppRegistryNotReady,
    EmptyResultSet,
    FieldError,
    FullResultSet,
    ValidationError,
)
from django.db import connections, router
from django.db.models import F, Q, QuerySet, Value
from django.db.models.expressions import OrderBy
from django.db.models.sql import Query

from session_lock.errors import SettingsError
from session_lock.models.moments import refuse_now
from session_lock.names import quote_literal


class DjangoModel:
    layer = "Django"
    unwritten = ""
    now = "Now()"
    condition = "Q(done_at=None)"

    def __init__(self, model: Any) -> None:
        self.name: str = model.__name__
        if model._meta.abstract:  # noqa: SLF001 (Django's way to ask a model)
            raise SettingsError(
                f"{self.name} is abstract and has no table: give from_model one that is derived from it"
            )
        self._model = model._meta.concrete_model  # noqa: SLF001 (a proxy has none of its own)
        self._meta = self._model._meta  # noqa: SLF001
        self._fields = {field.column: field for field in self._meta.local_concrete_fields}
        self._connection = connections[router.db_for_write(self._model)]
        if self._connection.vendor != "postgresql":
            raise SettingsError(
                f"{self.name} is in the database {self._connection.alias!r}, which is of {self._connection.vendor}: "
                "tasks are rows of PostgreSQL"
            )
        quoted = re.fullmatch(r'"?([^"]+)"\."([^"]+)"?', self._meta.db_table)  # as schemas are smuggled in
        self.schema: str | None = quoted[1] if quoted else None
        self.table: str = quoted[2] if quoted else self._meta.db_table.strip('"')
        # From Django 5.2 on a key may have several.
        self.keys: list[str] = [field.column for field in getattr(self._meta, "pk_fields", [self._meta.pk])]

    def columns(self) -> Mapping[str, str]:
        names: dict[str, str] = {}
        for column, field in self._fields.items():
            names |= {column: column, field.attname: column, field.name: column}
        return {**names, "pk": self.keys[0]}

    def written(self) -> Mapping[str, str]:
        return {column: field.name for column, field in self._fields.items()}

    def column_of(self, given: Any) -> str | None:
        name = getattr(given if isinstance(given, F) else getattr(given, "field", None), "name", "")
        return self.columns().get(name)

    def type_of(self, column: str) -> str:
        return str(self._fields[column].db_type(self._connection))

    def direction_of(self, given: Any) -> tuple[Any, bool]:
        if isinstance(given, OrderBy):
            if given.nulls_first or given.nulls_last:
                raise SettingsError(
                    f"order_by of {self.name} says where nulls go, which it cannot: leave that out"
                )
            return given.expression, given.descending
        if isinstance(given, str) and given.startswith("-"):
            return given[1:], True
        return given, False

    def is_query(self, given: Any) -> bool:
        return isinstance(given, QuerySet | Query)

    def expression(self, given: Any) -> str | None:
        if not hasattr(given, "resolve_expression"):
            return None
        return self._compiled(given, for_save=False)

    def value(self, column: str, given: Any) -> str:
        if not hasattr(given, "resolve_expression"):
            given = Value(given, self._fields[column])
        return self._compiled(given, for_save=True)

    def _compiled(self, given: Any, *, for_save: bool) -> str:
        query = Query(self._model, alias_cols=False)  # bare names, as in Django's own constraints
        compiler = query.get_compiler(connection=self._connection)
        try:
            if isinstance(given, Q):
                resolved = query.build_where(given)
            else:
                resolved = given.resolve_expression(query, allow_joins=False, for_save=for_save)
            text, arguments = compiler.compile(resolved)
            literals = tuple(map(self._literal, arguments))
        except AppRegistryNotReady as error:
            raise SettingsError(
                f"an expression of {self.name} is over other models, which Django has not loaded yet: declare the mapping in a module that is "
                "imported after the models, such as jobs.py"
            ) from error
        except (EmptyResultSet, FullResultSet) as error:
            rows = (
                "no row, as one of an empty list is"
                if isinstance(error, EmptyResultSet)
                else "each row, as an empty Q() is"
            )
            raise SettingsError(
                f"an expression of {self.name} is true of {rows}: mend it, or write it as text"
            ) from error
        except (FieldError, ValidationError, TypeError, ValueError) as error:
            raise SettingsError(
                f"an expression of {self.name} cannot be compiled ({error}): mend it, or write it as text"
            ) from error
        for each in arguments:
            refuse_now(self.name, each, self.now)
        if "SELECT" in text:  # in which names of this table and of another would look alike
            raise SettingsError(
                f"an expression of {self.name} has a subquery: write it as text, with aliases of your own"
            )
        return str(text % literals)

    def _literal(self, argument: Any) -> str:
        if isinstance(argument, str):
            return quote_literal(argument)
        return str(self._connection.SchemaEditorClass(self._connection).quote_value(argument))
