"""`op.install_task_table` and `op.remove_task_table`, and how they stand in a migration."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, Operations
from alembic.util import CommandError

from session_lock.contrib.commands import printed_as
from session_lock.errors import SettingsError
from session_lock.migrations import install, remove, takes_no_transaction
from session_lock.migrations.synchronous import on_sqlalchemy
from session_lock.table import TaskTable


@Operations.register_operation("install_task_table")
class InstallTaskTable(MigrateOperation):
    """What `session-lock install` does; by the library that is there when the migration runs. It raises what `install` does.

    ```python
    def upgrade():
        op.install_task_table(TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()"))
    ```
    """

    def __init__(self, table: TaskTable, *, grant_to: str | None = None, is_new: bool = True) -> None:
        self.table = table
        self.grant_to = grant_to
        self.is_new = is_new

    @classmethod
    def install_task_table(
        cls, operations: Operations, table: TaskTable, *, grant_to: str | None = None
    ) -> None:
        """Bring a mapping into the database, as part of the migration's transaction.

        If an index is to be built and the table has rows, the migration so far is committed and the rest is done outside a transaction, as
        indexes are built concurrently then; but not before all that can be refused was looked at. `grant_to`: a role that is to run the tasks.
        """
        operations.invoke(cls(table, grant_to=grant_to))

    def reverse(self) -> MigrateOperation:
        """What stands in `downgrade()`: the removal of what is new; nothing, where an earlier version may be at work."""
        return RemoveTaskTable(self.table) if self.is_new else LeaveTaskTable()

    def to_diff_tuple(self) -> tuple[str, TaskTable]:
        """As `alembic check` names it."""
        return "install_task_table", self.table


@Operations.register_operation("remove_task_table")
class RemoveTaskTable(MigrateOperation):
    """The way back. `SchemaError`, and nothing is changed, while a session of the mapping is live.

    ```python
    def downgrade():
        op.remove_task_table(TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()"))
    ```
    """

    def __init__(self, table: TaskTable) -> None:
        self.table = table

    @classmethod
    def remove_task_table(cls, operations: Operations, table: TaskTable) -> None:
        """Take away all that belongs to a mapping, in all of its versions: functions, indexes, the claim columns. Its sessions stay, and the rows."""
        operations.invoke(cls(table))

    def reverse(self) -> MigrateOperation:
        """The installation, which is what it takes back."""
        return InstallTaskTable(self.table)

    def to_diff_tuple(self) -> tuple[str, TaskTable]:
        """As `alembic check` names it."""
        return "remove_task_table", self.table


class LeaveTaskTable(MigrateOperation):
    """The way back from newer functions, or another version of a mapping: there is none, as instances of both may be at work."""

    def reverse(self) -> MigrateOperation:
        return self

    def to_diff_tuple(self) -> tuple[str]:
        return ("leave_task_table",)


@Operations.implementation_for(InstallTaskTable)
@printed_as(CommandError)
def _install(operations: Operations, operation: InstallTaskTable) -> None:
    context, table, grant_to = operations.get_context(), operation.table, operation.grant_to
    _need_connection(context, "install_task_table")
    # All that can be refused is, before anything is committed.
    preflight = partial(takes_no_transaction, table=table, grant_to=grant_to)
    with ExitStack() as stack:
        if on_sqlalchemy(operations.get_bind(), preflight):
            # Where the transaction is the caller's and not Alembic's, install says what it takes.
            with suppress(AssertionError, AttributeError):
                stack.enter_context(context.autocommit_block())
        on_sqlalchemy(operations.get_bind(), partial(install, table=table, grant_to=grant_to))


@Operations.implementation_for(RemoveTaskTable)
@printed_as(CommandError)
def _remove(operations: Operations, operation: RemoveTaskTable) -> None:
    _need_connection(operations.get_context(), "remove_task_table")
    on_sqlalchemy(operations.get_bind(), lambda connection: remove(connection, operation.table))


def _need_connection(context: Any, name: str) -> None:
    if context.as_sql:
        raise SettingsError(
            f"op.{name} reads the table's types, which --sql cannot: commit the files that session-lock sql copy writes, and run them by psql"
        )


# In a migration ----------------------------------------------------------------------------------------------


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
