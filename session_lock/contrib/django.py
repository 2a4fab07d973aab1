"""Taskers that use Django's ORM, and an operation for Django's migrations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from session_lock.contrib.commands import printed_as
from session_lock.contrib.running import needs
from session_lock.errors import SettingsError
from session_lock.migrations import install, remove
from session_lock.migrations.synchronous import Work, on_django
from session_lock.table import TaskTable

with needs("Django", "4.2"):
    from django.core.management.base import CommandError
    from django.db import close_old_connections, router
    from django.db.migrations.operations.base import Operation
    from django.db.migrations.serializer import BaseSerializer
    from django.db.migrations.writer import MigrationWriter

__all__ = ["InstallTaskTable", "fresh_connections"]

W = TypeVar("W")
R = TypeVar("R")


def fresh_connections(tasker: Callable[[W], R]) -> Callable[[W], R]:
    """A decorator for a plain `def`: around each call its thread's connections that are lost or too old are closed.

    Django does so around each request. Without it a thread whose connection the server has closed gets no other one. `SettingsError` for an `async def`.

    ```python
    @fresh_connections
    def send(task):
        print("sent to", task.data["address"])  # and whatever you do by the ORM
    ```
    """
    if inspect.iscoroutinefunction(tasker):
        raise SettingsError(
            "fresh_connections is for a plain def, which has a thread with connections of its own"
        )

    @wraps(tasker)
    def called(work: W) -> R:
        close_old_connections()
        try:
            return tasker(work)
        finally:
            close_old_connections()

    return called


class InstallTaskTable(Operation):
    """What `session-lock install` does, as an operation of a migration; by the library that is there when it runs.

    Write the mapping itself into the migration (`print(mails)` shows it), which is to stay as it is when the mapping changes. A table
    that has rows asks for `atomic = False` in the migration's class, as indexes are built concurrently then.

    `update`: it was installed before, by another migration or by hand, so the way back leaves all as it is; else that takes away what
    belongs to the mapping, in all of its versions, and leaves the rows. `grant_to`: a role that is to run the tasks, which is there wherever the migration runs.
    `hints`: for a database router, as those of `RunSQL`, such as `{"model_name": "sale"}`.

    ```python
    class Migration(migrations.Migration):
        atomic = False
        operations = [InstallTaskTable(TaskTable("mail", key="id", pending="sent_at IS NULL", finish="sent_at = now()"))]
    ```
    """

    reduces_to_sql = False

    def __init__(
        self,
        table: TaskTable,
        *,
        update: bool = False,
        grant_to: str | None = None,
        hints: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(table, TaskTable):
            raise SettingsError(f"InstallTaskTable takes a mapping, TaskTable, not {type(table).__name__}")
        self.table = table
        self.update = update
        self.grant_to = grant_to
        self.hints: dict[str, Any] = hints or {}

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The four columns are in no model, and Django leaves alone what it does not know."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:  # noqa: ARG002 (Django's)
        self._do(app_label, schema_editor, lambda own: install(own, self.table, grant_to=self.grant_to))

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:  # noqa: ARG002 (Django's)
        if not self.update:
            self._do(app_label, schema_editor, lambda own: remove(own, self.table))

    def describe(self) -> str:
        return f"{'Update' if self.update else 'Install'} the task table {self.table.name}"

    def _do(self, app_label: str, schema_editor: Any, work: Work[Any]) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label, **self.hints):
            with printed_as(CommandError, returncode=1):
                on_django(schema_editor.connection, work)


class _TaskTableSerializer(BaseSerializer):
    """For squashmigrations, which writes operations anew."""

    def serialize(self) -> tuple[str, set[str]]:
        return repr(self.value), {"from session_lock import Limit, Rate, TaskTable"}


MigrationWriter.register_serializer(TaskTable, _TaskTableSerializer)
