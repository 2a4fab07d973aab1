"""Operations for Alembic's migrations, and what its autogenerate finds: task tables that are declared, and not installed yet.

Import it in `env.py`. An operation reads from the table what types its columns have, so it needs a connection: `upgrade --sql` is
refused, and what `session-lock sql copy` writes serves there.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, TypeVar

from session_lock.errors import SchemaError, SettingsError
from session_lock.migrations import install, remove
from session_lock.migrations.comparison import rights, to_install
from session_lock.migrations.sandbox import Connection, RightsError
from session_lock.migrations.shipping import is_there
from session_lock.migrations.synchronous import on_sqlalchemy
from session_lock.migrations.validation import examine, read_claim_columns
from session_lock.table import TaskTable

try:
    from alembic.autogenerate import comparators, renderers
    from alembic.operations import MigrateOperation, Operations
    from alembic.operations.ops import (
        CreateTableOp,
        DropColumnOp,
        DropIndexOp,
        DropTableOp,
        ModifyTableOps,
        OpContainer,
    )
    from alembic.util import DispatchPriority
    from sqlalchemy import MetaData
except ImportError as error:
    raise SettingsError(
        "session_lock.contrib.alembic needs Alembic 1.18 or later: pip install 'session-lock[alembic]'"
    ) from error

M = TypeVar("M", bound=MetaData)

DECLARED = "session_lock.task_tables"
OUR_INDEX = re.compile(r"(pending|due|values|held)_\w+_[0-9a-f]{8}|dedup_\w+_[0-9a-f]{8}")
OUR_COLUMN = "session_lock "


def with_task_tables(metadata: M, *tables: TaskTable, grant_to: str | None = None) -> M:
    """The same metadata; autogenerate sees by it that these mappings are to be installed.

    `grant_to`: a role that is to run their tasks, if that is another one than migrates.
    """
    for table in tables:
        if not isinstance(table, TaskTable):
            raise SettingsError(f"with_task_tables takes mappings, TaskTable, not {type(table).__name__}")
    metadata.info[DECLARED] = (*metadata.info.get(DECLARED, ()), *((table, grant_to) for table in tables))
    return metadata


# Operations --------------------------------------------------------------------------------------------------


@Operations.register_operation("install_task_table")
class InstallTaskTable(MigrateOperation):
    """What `session-lock install` does; by the library that is there when the migration runs."""

    def __init__(self, table: TaskTable, *, grant_to: str | None = None, is_new: bool = True) -> None:
        self.table = table
        self.grant_to = grant_to
        self.is_new = is_new

    @classmethod
    def install_task_table(
        cls, operations: Operations, table: TaskTable, *, grant_to: str | None = None
    ) -> None:
        """Bring a mapping into the database, as part of the migration's transaction.

        If its table has rows, the migration so far is committed and the rest is done outside a transaction, as indexes are built
        concurrently then. Stopped half-way it can be run again. `grant_to`: a role that is to run the tasks.
        """
        operations.invoke(cls(table, grant_to=grant_to))

    def reverse(self) -> MigrateOperation:
        return RemoveTaskTable(self.table) if self.is_new else LeaveTaskTable()

    def to_diff_tuple(self) -> tuple[str, TaskTable]:
        return "install_task_table", self.table


@Operations.register_operation("remove_task_table")
class RemoveTaskTable(MigrateOperation):
    """The way back."""

    def __init__(self, table: TaskTable) -> None:
        self.table = table

    @classmethod
    def remove_task_table(cls, operations: Operations, table: TaskTable) -> None:
        """Take away all that belongs to a mapping: functions, indexes, the claim columns. Its sessions stay, and the rows."""
        operations.invoke(cls(table))

    def reverse(self) -> MigrateOperation:
        return InstallTaskTable(self.table)

    def to_diff_tuple(self) -> tuple[str, TaskTable]:
        return "remove_task_table", self.table


class LeaveTaskTable(MigrateOperation):
    """The way back from newer functions, or another version of a mapping: there is none, as instances of both may be at work."""

    def reverse(self) -> MigrateOperation:
        return self

    def to_diff_tuple(self) -> tuple[str]:
        return ("leave_task_table",)


@Operations.implementation_for(InstallTaskTable)
def _install(operations: Operations, operation: InstallTaskTable) -> None:
    context = operations.get_context()
    _need_connection(context, "install_task_table")

    def work(connection: Connection) -> Any:
        return install(connection, operation.table, grant_to=operation.grant_to)

    if _has_rows(operations.get_bind(), operation.table):
        with context.autocommit_block():
            on_sqlalchemy(operations.get_bind(), work)
    else:
        on_sqlalchemy(operations.get_bind(), work)


@Operations.implementation_for(RemoveTaskTable)
def _remove(operations: Operations, operation: RemoveTaskTable) -> None:
    _need_connection(operations.get_context(), "remove_task_table")
    on_sqlalchemy(operations.get_bind(), lambda connection: remove(connection, operation.table))


def _need_connection(context: Any, name: str) -> None:
    if context.as_sql:
        raise SettingsError(
            f"op.{name} reads the table's types, which --sql cannot: commit what session-lock sql copy writes, and execute that"
        )


def _has_rows(connection: Any, table: TaskTable) -> bool:
    async def work(own: Connection) -> bool:
        if not await is_there(own, table):
            return False
        return bool(await own.fetchval(f"SELECT EXISTS (SELECT FROM {table.quoted})"))

    return on_sqlalchemy(connection, work)


# Autogenerate ------------------------------------------------------------------------------------------------


@comparators.dispatch_for("schema", priority=DispatchPriority.LAST)
def _compare(context: Any, upgrade: Any, _schemas: Any) -> None:
    """After all others: what is ours they would drop, and what they are to make is there before it is installed."""
    declared = _declared(context.metadata)
    _spare(upgrade, [table for table, _ in declared])
    changed = {_qualified(each) for each in upgrade.ops if isinstance(each, CreateTableOp | ModifyTableOps)}
    for table, grant_to in declared:
        found = on_sqlalchemy(context.connection, partial(_missing, table=table, grant_to=grant_to))
        if isinstance(found, SchemaError):
            if table.qualified not in changed:  # else it is what this migration is about to mend
                raise found
            upgrade.ops.append(InstallTaskTable(table, grant_to=grant_to))
        elif found is not None:
            upgrade.ops.append(InstallTaskTable(table, grant_to=grant_to, is_new=found))


def _declared(metadata: Any) -> list[tuple[TaskTable, str | None]]:
    several = metadata if isinstance(metadata, list | tuple) else [metadata]
    return [declared for each in several for declared in each.info.get(DECLARED, ())]


async def _missing(
    connection: Connection, *, table: TaskTable, grant_to: str | None
) -> bool | SchemaError | None:
    """Whether it is installed for the first time; None: it is there. Or why it cannot be yet."""
    try:
        examined = await examine(connection, table)
    except RightsError:
        raise
    except SchemaError as error:
        return error
    left = [
        *await to_install(connection, table, examined),
        *await rights(connection, table, examined, grant_to),
    ]
    return not await read_claim_columns(connection, table) if left else None


def _qualified(operation: Any) -> tuple[str, str]:
    return operation.schema or "public", operation.table_name


def _spare(container: Any, declared: list[TaskTable]) -> None:
    """Take out of what autogenerate would drop that which no model has, as it is ours."""
    schemas = {table.schema for table in declared}
    shipped = {table.qualified for table in declared if table.made_by}

    def is_ours(operation: Any) -> bool:
        match operation:
            case DropColumnOp():
                return (operation.to_column().comment or "").startswith(OUR_COLUMN)
            case DropIndexOp():
                return (
                    operation.schema in schemas or OUR_INDEX.fullmatch(operation.index_name or "") is not None
                )
            case DropTableOp():
                return operation.schema in schemas or _qualified(operation) in shipped
        return False

    for each in list(container.ops):
        if isinstance(each, OpContainer):
            _spare(each, declared)
        if is_ours(each) or (isinstance(each, ModifyTableOps) and each.is_empty()):
            container.ops.remove(each)


@renderers.dispatch_for(InstallTaskTable)
def _render_install(context: Any, operation: InstallTaskTable) -> str:
    granted = "" if operation.grant_to is None else f", grant_to={operation.grant_to!r}"
    return f"op.install_task_table({_written(context, operation.table)}{granted})"


@renderers.dispatch_for(RemoveTaskTable)
def _render_remove(context: Any, operation: RemoveTaskTable) -> str:
    return f"op.remove_task_table({_written(context, operation.table)})"


@renderers.dispatch_for(LeaveTaskTable)
def _render_leave(_context: Any, _operation: LeaveTaskTable) -> list[str]:
    return []


def _written(context: Any, table: TaskTable) -> str:
    """A migration stays as it was made, whatever becomes of the mapping: so the mapping itself stands in it."""
    text = repr(table)
    names = [name for name in ("TaskTable", "Limit", "Rate") if re.search(rf"\b{name}\(", text)]
    context.imports.add(f"from session_lock import {', '.join(sorted(names))}")
    context.imports.add("import session_lock.contrib.alembic  # op.install_task_table")
    return text
