"""As whom the functions of a mapping run, and what that means for others: notes of `check`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from session_lock.migrations.difference import Difference, note
from session_lock.migrations.sandbox import Connection
from session_lock.migrations.validation import Examined
from session_lock.names import quote_name
from session_lock.objects import function_set
from session_lock.table import TaskTable


async def owners(
    connection: Connection, table: TaskTable, examined: Examined, role: str | None
) -> list[Difference]:
    who = await _function_owner(connection, table, examined)
    if who is None:
        return []
    found: list[Difference] = []
    if who["superuser"]:
        found.append(
            note(
                f"the functions run as {who['owner']!r}, a superuser, so pending, finish and every trigger do too",
                "install as a role that owns the table and no more",
            )
        )
    service = who["owner"] if role is None else role
    may = await connection.fetchval(
        "SELECT pg_has_role(r.oid, $2::oid, 'USAGE') OR has_table_privilege(r.oid, to_regclass($3), 'SELECT, UPDATE, DELETE') "
        "FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1",
        service,
        who["oid"],
        f"{quote_name(table.schema)}.session",
    )
    if role is not None and may:
        found.append(
            note(
                f"the role {role!r} can read and write the sessions itself, and so end, or act as, any of them",
                "a service needs EXECUTE only (install as another role, with --grant-to)",
            )
        )
    elif role is None:
        found.append(
            note(
                f"the functions belong to {who['owner']!r}: a service that connects as that role can end, or act as, any session",
                "give it a role of its own (install --grant-to ROLE, then check --role ROLE)",
            )
        )
    return found


async def row_security(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    rows = await connection.fetch(
        """
        SELECT c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, r.rolname AS owner
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
         WHERE n.nspname = $1 AND c.relname = $2
        """,
        *table.qualified,
    )
    if not rows[0]["enabled"]:
        return []
    who = await _function_owner(connection, table, examined)
    if rows[0]["forced"]:
        effect = "and binds its owner too, so sessions get the rows that the functions' owner may see and no others"
    elif who is None or who["owner"] == rows[0]["owner"]:
        effect = (
            "and does not bind the functions, which run as the table's owner: sessions get the rows of all"
        )
    else:
        effect = f"and binds the functions, which run as {who['owner']!r}: sessions get only the rows that it may see"
    return [note(f"row security is on for {table.table}, {effect}")]


async def _function_owner(
    connection: Connection, table: TaskTable, examined: Examined
) -> Mapping[str, Any] | None:
    rows = await connection.fetch(
        """
        SELECT r.oid AS oid, r.rolname AS owner, r.rolsuper AS superuser
          FROM pg_catalog.pg_proc AS p
          JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
          JOIN pg_catalog.pg_roles AS r ON r.oid = p.proowner
         WHERE n.nspname = $1 AND p.proname = $2
        """,
        table.schema,
        f"get_work_{function_set(table, examined.shape)}",
    )
    return rows[0] if rows else None
