"""What autogenerate would drop or change as no model has it, and is to leave alone as it is ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any

from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateTableOp,
    DropColumnOp,
    DropIndexOp,
    DropTableOp,
    ModifyTableOps,
    OpContainer,
)

from session_lock.schema import source
from session_lock.table import TaskTable

OUR_INDEX = re.compile(r"(?:pending|due|values|held)_(?:\w+_([0-9a-f]{8})|([0-9a-f]{8})_\w+)")
"""Of a set of functions, or of one partition: the hash of the set stands in it."""
OUR_COMMENT = "session_lock "
OUR_TABLES = re.findall(
    r"(?m)^CREATE TABLE IF NOT EXISTS session_lock\.(\w+)",
    source("sessions.up.sql") + source("duties.up.sql"),
)


@dataclass(frozen=True, slots=True)
class Ours:
    """What no model has, as it is ours."""

    default: str
    """The schema that operations do not name."""

    tables: Sequence[TaskTable]
    sets: AbstractSet[str]

    def spare(self, container: Any) -> None:
        """Take it out of what autogenerate would change."""
        for each in list(container.ops):
            if isinstance(each, OpContainer):
                self.spare(each)
            elif isinstance(each, AlterColumnOp) and (each.existing_comment or "").startswith(OUR_COMMENT):
                each.modify_comment = False
            elif isinstance(each, CreateTableOp):
                each.columns = [column for column in each.columns if not self._is_claim_column(each, column)]
            if (
                self._is_ours(each)
                or (isinstance(each, AlterColumnOp) and not each.has_changes())
                or (isinstance(each, ModifyTableOps) and each.is_empty())
            ):
                container.ops.remove(each)

    def _is_ours(self, operation: Any) -> bool:
        match operation:
            case AddColumnOp():  # a model may name them, to read them
                return self._is_claim_column(operation, operation.column)
            case DropColumnOp():
                return (operation.to_column().comment or "").startswith(OUR_COMMENT)
            case DropIndexOp():
                known = OUR_INDEX.fullmatch(operation.index_name or "")
                return self._is_our_table(operation) or bool(known and self.sets & {*known.groups()})
            case DropTableOp():
                return self._is_our_table(operation)
        return False

    def _is_claim_column(self, operation: Any, column: Any) -> bool:
        return any(
            table.qualified == self._qualified(operation)
            and getattr(column, "name", None) in asdict(table.claim_columns).values()
            for table in self.tables
        )

    def _is_our_table(self, operation: Any) -> bool:
        schema, name = self._qualified(operation)
        return any(
            (schema == table.schema and name in OUR_TABLES)
            or (table.made_by and (schema, name) == table.qualified)
            for table in self.tables
        )

    def _qualified(self, operation: Any) -> tuple[str, str]:
        return operation.schema or self.default, operation.table_name
