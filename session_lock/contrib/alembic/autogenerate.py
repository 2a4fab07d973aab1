"""What autogenerate finds: mappings that are declared, and not installed, or not as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from alembic.autogenerate import comparators
from alembic.operations.ops import CreateTableOp, ModifyTableOps
from alembic.util import CommandError, DispatchPriority
from sqlalchemy import MetaData

from session_lock.contrib.alembic.operations import InstallTaskTable
from session_lock.contrib.alembic.ours import Ours
from session_lock.contrib.commands import printed_as
from session_lock.errors import SchemaError, SettingsError
from session_lock.migrations.comparison import rights, to_install
from session_lock.migrations.difference import INSTALL
from session_lock.migrations.sandbox import Connection, RightsError
from session_lock.migrations.synchronous import migrates, on_sqlalchemy
from session_lock.migrations.validation import examine, read_claim_columns
from session_lock.schema import DEFAULT_SCHEMA
from session_lock.table import TaskTable

M = TypeVar("M", bound=MetaData)

DECLARED = "session_lock.task_tables"


def with_task_tables(metadata: M, *tables: TaskTable, grant_to: str | None = None) -> M:
    """The same metadata; autogenerate sees by it that these mappings are to be installed. `SettingsError` if one is no `TaskTable`.

    `grant_to`: a role that is to run their tasks, if that is another one than migrates. It is there wherever a migration runs.

    ```python
    metadata = with_task_tables(Base.metadata, mails, grant_to="myservice")
    ```
    """
    for table in tables:
        if not isinstance(table, TaskTable):
            raise SettingsError(f"with_task_tables takes mappings, TaskTable, not {type(table).__name__}")
    known = {_name(table): (table, grant_to) for table in tables}  # env.py may run again in the same process
    metadata.info[DECLARED] = {**metadata.info.get(DECLARED, {}), **known}
    return metadata


def _name(table: TaskTable) -> tuple[str, str, tuple[str, str]]:
    return table.schema, table.name, table.qualified


@comparators.dispatch_for("schema", priority=DispatchPriority.LAST)
@printed_as(CommandError)
def _compare(context: Any, upgrade: Any, _schemas: Any) -> None:
    """After all others: what is ours they would drop, and what they are to make is there before it is installed."""
    declared = _declared(context.metadata)
    default = context.dialect.default_schema_name
    if not declared and not migrates(context.dialect):
        return  # another database of the same env.py, say: nothing of ours is in it
    schemas = {DEFAULT_SCHEMA, *(table.schema for table, _ in declared)}
    ours = Ours(
        default=default,
        tables=[table for table, _ in declared],
        schemas=schemas,
        sets=on_sqlalchemy(context.connection, partial(_sets, schemas=schemas)),
    )
    later = ours.spare(upgrade)
    changed = {
        (each.schema or default, each.table_name)
        for each in upgrade.ops
        if isinstance(each, CreateTableOp | ModifyTableOps)
    }
    for table, grant_to in declared:
        found = on_sqlalchemy(context.connection, partial(_missing, table=table, grant_to=grant_to))
        if found.error is not None and table.qualified not in changed:
            raise found.error  # else it is what this migration is about to mend
        if found.error is not None or found.differs:
            upgrade.ops.append(InstallTaskTable(table, grant_to=grant_to, is_new=found.is_new))
    upgrade.ops += later


def _declared(metadata: Any) -> list[tuple[TaskTable, str | None]]:
    several = metadata if isinstance(metadata, list | tuple) else [metadata]
    return [declared for each in several for declared in each.info.get(DECLARED, {}).values()]


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of a mapping."""

    is_new: bool
    differs: bool = False
    error: SchemaError | None = None
    """Why it cannot be installed as the database is."""


async def _missing(connection: Connection, *, table: TaskTable, grant_to: str | None) -> _Found:
    is_new = not await read_claim_columns(connection, table)
    try:
        examined = await examine(connection, table)
    except RightsError:
        raise
    except SchemaError as error:
        return _Found(is_new, error=error)
    differences = [
        *await to_install(connection, table, examined),
        *await rights(connection, table, examined, grant_to),
    ]
    for each in differences:
        if not each.remedy.startswith(INSTALL):  # it would be found again after each migration
            raise SchemaError(str(each))
    return _Found(is_new, differs=bool(differences))


async def _sets(connection: Connection, *, schemas: set[str]) -> set[str]:
    """The hashes of all that is installed in these schemas."""
    rows = await connection.fetch(
        """
        SELECT right(p.proname, 8) AS hash FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
         WHERE n.nspname = ANY ($1::text[]) AND p.proname ~ '^get_work_.*_[0-9a-f]{8}$'
        """,
        list(schemas),
    )
    return {row["hash"] for row in rows}
