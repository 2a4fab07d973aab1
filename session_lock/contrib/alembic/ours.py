"""What autogenerate would drop or change as no model has it, or as a model has it otherwise, and is to leave alone as it is ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from alembic.operations.ops import (
    AddColumnOp,
    AddConstraintOp,
    AlterColumnOp,
    CreateCheckConstraintOp,
    CreateForeignKeyOp,
    CreateIndexOp,
    CreateTableOp,
    CreateUniqueConstraintOp,
    DropColumnOp,
    DropIndexOp,
    DropTableOp,
    ExecuteSQLOp,
    ModifyTableOps,
    OpContainer,
)
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import AddConstraint

from session_lock.contrib.alembic.operations import LeaveTaskTable
from session_lock.schema import source
from session_lock.table import TaskTable

OUR_INDEX = re.compile(r"(?:pending|due|values|held)_(?:\w+_([0-9a-f]{8})|([0-9a-f]{8})_\w+)")
"""Of a set of functions, or of one partition: the hash of the set stands in it."""
OUR_COMMENT = "session_lock "
OUR_TABLES = re.findall(
    r"(?m)^CREATE TABLE IF NOT EXISTS session_lock\.(\w+)",
    source("sessions.up.sql") + source("duties.up.sql"),
)
CONSTRAINTS = (CheckConstraint, ForeignKeyConstraint, UniqueConstraint)


class OverClaimColumns(ModifyTableOps):
    """Indexes and constraints of a model over claim columns: they can be made when those are there, and go with them."""

    def reverse(self) -> Any:
        return LeaveTaskTable()


@dataclass(frozen=True, slots=True)
class Ours:
    """What no model has, or has to read it, as it is ours."""

    default: str
    """The schema that operations do not name."""

    tables: Sequence[TaskTable]
    schemas: AbstractSet[str]
    """Where our own tables are, also those of mappings that are declared no more."""

    sets: AbstractSet[str]

    def spare(self, container: Any) -> list[OverClaimColumns]:
        """Take it out of what autogenerate would change, and return what is to be done once the claim columns are there."""
        later: list[OverClaimColumns] = []
        for each in list(container.ops):
            if isinstance(each, OpContainer):
                later += self.spare(each)
            elif isinstance(each, CreateTableOp):
                later += self._taken_out(each)
            is_later = self._is_over_claim_columns(each)
            if is_later:
                later.append(self._for_later(each))
            if is_later or self._is_ours(each) or (isinstance(each, ModifyTableOps) and each.is_empty()):
                container.ops.remove(each)
        return later

    def _taken_out(self, operation: CreateTableOp) -> list[OverClaimColumns]:
        """Of a task table that is made, what is over claim columns; they themselves come by the installation."""
        if self._qualified(operation) not in {table.qualified for table in self.tables}:
            return []
        kept: list[Any] = []
        later: list[OverClaimColumns] = []
        for item in operation.columns:
            added = AddConstraintOp.from_constraint(item) if isinstance(item, CONSTRAINTS) else None
            if added is not None and self._is_over_claim_columns(added):
                later.append(self._for_later(added))
            elif not (isinstance(item, Column) and self._is_claim_column(operation, item.name)):
                kept.append(item)
        operation.columns = kept
        return later

    def _for_later(self, operation: Any) -> OverClaimColumns:
        schema, name = self._qualified(operation)
        if isinstance(operation, CreateCheckConstraintOp):  # Alembic 1.18 cannot write one into a migration
            dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
            made = AddConstraint(operation.to_constraint()).compile(dialect=dialect)
            operation = ExecuteSQLOp(str(made).replace(":", r"\:"))
        return OverClaimColumns(name, [operation], schema=schema)

    def _is_ours(self, operation: Any) -> bool:
        match operation:
            case AddColumnOp():
                return self._is_claim_column(operation, operation.column.name)
            case AlterColumnOp():
                is_known = (operation.existing_comment or "").startswith(OUR_COMMENT)
                return is_known or self._is_claim_column(operation, operation.column_name)
            case DropColumnOp():
                return (operation.to_column().comment or "").startswith(OUR_COMMENT)
            case DropIndexOp():
                known = OUR_INDEX.fullmatch(operation.index_name or "")
                return self._is_our_table(operation) or bool(known and self.sets & {*known.groups()})
            case DropTableOp():
                return self._is_our_table(operation)
        return False

    def _is_over_claim_columns(self, operation: Any) -> bool:
        match operation:
            case CreateIndexOp():
                parts = [*operation.columns, *operation.kw.values()]
            case CreateUniqueConstraintOp():
                parts = [*operation.columns]
            case CreateForeignKeyOp():
                parts = [*operation.local_cols]
            case CreateCheckConstraintOp():
                parts = [operation.condition]
            case _:
                return False
        words = re.findall(
            r"\w+", " ".join(map(str, parts))
        )  # if one is something else, it is merely made later
        return any(self._is_claim_column(operation, word) for word in words)

    def _is_claim_column(self, operation: Any, name: str) -> bool:
        place = self._qualified(operation)
        return any(
            table.qualified == place and name in asdict(table.claim_columns).values() for table in self.tables
        )

    def _is_our_table(self, operation: Any) -> bool:
        schema, name = place = self._qualified(operation)
        return (schema in self.schemas and name in OUR_TABLES) or any(
            table.made_by and table.qualified == place for table in self.tables
        )

    def _qualified(self, operation: Any) -> tuple[str, str]:
        if isinstance(operation, CreateForeignKeyOp):
            return operation.kw.get("source_schema") or self.default, operation.source_table
        return operation.schema or self.default, operation.table_name
