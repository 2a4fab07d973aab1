"""Copies of a database: told from the original, and adopted."""

from __future__ import annotations

from session_lock.migrations.sandbox import Connection, sentences
from session_lock.names import quote_name
from session_lock.table import TaskTable


async def copy_of(connection: Connection, table: TaskTable) -> str | None:
    """Of what the database is a copy, in words; None if it is the one that its sessions belong to, or never had any."""
    schema = quote_name(table.schema)
    installed = "SELECT to_regclass($1) IS NOT NULL AND to_regprocedure($2) IS NOT NULL"
    async with sentences(connection, "whether the database is a copy was not to be found out"):
        if not await connection.fetchval(installed, f"{schema}.origin", f"{schema}.whereabouts()"):
            return None
        rows = await connection.fetch(
            f"SELECT o.system, o.database FROM {schema}.origin AS o, {schema}.whereabouts() AS w"
            " WHERE (o.system, o.database) <> (w.system, w.database)"
        )
    return f"database {rows[0]['database']} of server {rows[0]['system']}" if rows else None


async def adopt(connection: Connection, table: TaskTable) -> bool:
    """Let the sessions of the mapping's schema belong to this database from now on, a copy of another one; False if it is none.

    The tasks of all its mappings are run then, wherever instances are started. It needs the rights of the schema's owner.

    ```python
    if not await adopt(connection, mails):
        print("this database is no copy")
    ```
    """
    async with sentences(connection, f"the database was not adopted for {table.name!r}"):
        if await copy_of(connection, table) is None:
            return False
        await connection.execute(f"SELECT {quote_name(table.schema)}.adopt()")
    return True
