"""`validate`: everything about a mapping that can be refused, found before anything changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from session_lock.catalog import check_name_is_free, read_shape
from session_lock.errors import SchemaError
from session_lock.migrations.assignments import check_assignments
from session_lock.migrations.expressions import Probe, check_accepts, check_pending, make_probe
from session_lock.migrations.limiting import limit_definitions
from session_lock.migrations.sandbox import Connection, attempt, rolled_back, sentences
from session_lock.migrations.shipping import at_hand
from session_lock.names import quote_inside_literal, quote_name
from session_lock.objects import column_mark, function_set
from session_lock.schema import SCHEMA_VERSION
from session_lock.table import Shape, TaskTable

CLAIM_TYPES = {
    "session_id": ("bigint", False, None),
    "claim_token": ("bigint", False, None),
    "attempts": ("integer", True, "0"),
    "available_at": ("timestamp with time zone", True, "now()"),
}
"""Of each claim column: type, whether NOT NULL, default."""


async def validate(connection: Connection, table: TaskTable) -> Shape:
    """Refuse whatever of the mapping the database cannot serve, or return the types that its SQL depends on.

    It leaves nothing behind: expressions are tried on a temporary copy of the table (without rows), and the finish on
    one pending row if there is one, all rolled back. Needs the rights of the table's owner. Raises `SchemaError`.

    ```python
    shape = await validate(connection, mails)
    assert (shape.key_type, shape.column_types["address"]) == ("bigint", "text")
    ```
    """
    return (await examine(connection, table)).shape


@dataclass(frozen=True, slots=True)
class Examined:
    """A mapping that can be served."""

    shape: Shape
    pending: str
    """As the server prints it, under the search_path of our functions."""

    limit_indexes: Mapping[str, str]
    """Of a mapping with limits: the other indexes by name, as the server prints what comes after USING."""


async def examine(connection: Connection, table: TaskTable) -> Examined:
    async with sentences(connection, f"{table.table} could not be examined"):
        path = str(await connection.fetchval("SELECT current_setting('search_path')"))
        async with at_hand(connection, table):
            shape = await read_shape(connection, table)
            await check_claim_columns(connection, table)
            await check_name_is_free(connection, table, function_set(table, shape))
            async with rolled_back(connection):
                await make_probe(connection, table)
                probe = Probe(connection, table, path)
                pending = await check_pending(probe)
                await check_accepts(probe)
                await _check_order(probe)
                indexes = await limit_definitions(probe, shape)
                await check_assignments(probe, "finish", table.finish)
                if table.discard is not None:
                    await check_assignments(probe, "discard", table.discard)
    return Examined(shape, pending, indexes)


@dataclass(frozen=True, slots=True)
class ClaimColumn:
    """A column of the table that has the name of one of ours."""

    role: str
    name: str
    type: str
    not_null: bool
    default: str | None
    comment: str


async def read_claim_columns(connection: Connection, table: TaskTable) -> dict[str, ClaimColumn]:
    """By role (`session_id`, ..): those that are there."""
    roles = {getattr(table.claim_columns, each.name): each.name for each in fields(table.claim_columns)}
    async with rolled_back(connection):  # which does not wait for long: to print a default takes a lock
        rows = await connection.fetch(
            """
            SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
                   pg_get_expr(d.adbin, d.adrelid) AS default, coalesce(col_description(a.attrelid, a.attnum), '') AS comment
              FROM pg_catalog.pg_attribute AS a
              JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
              LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = ANY ($3) AND a.attnum > 0 AND NOT a.attisdropped
            """,
            *table.qualified,
            list(roles),
        )
    found = [ClaimColumn(roles[row["column"]], row["column"], *list(row.values())[1:]) for row in rows]
    return {column.role: column for column in found}


def comment_start(table: TaskTable) -> str:
    """What the comments of the mapping's columns begin with, as the files write it."""
    return quote_inside_literal(column_mark(table)).replace("''", "'") + ": "


async def check_claim_columns(connection: Connection, table: TaskTable) -> None:
    for column in (await read_claim_columns(connection, table)).values():
        where = f"{table.table} has a column {column.name!r} already"
        if not column.comment.startswith(comment_start(table)):
            other = re.match(r"session_lock (.*): ", column.comment)
            whose = f"of the mapping {other[1]!r}" if other else "that is not session_lock's"
            raise SchemaError(
                f"{where}, {whose}: choose another name with claim_columns={{{column.role!r}: ..}}"
            )
        if column.type != CLAIM_TYPES[column.role][0]:
            raise SchemaError(
                f"{where}, of type {column.type} and not {CLAIM_TYPES[column.role][0]}: change it back, or drop it"
            )


async def _check_order(probe: Probe) -> None:
    columns = ", ".join(
        f"{quote_name(column)}{' DESC' if down else ''}" for column, down in probe.table.order
    )
    refused = await attempt(probe.connection, f"CREATE INDEX ON {probe.name} ({columns})")
    if refused_order := probe.refused(refused):
        raise SchemaError(
            f"order_by of {probe.table.name!r} cannot be the order of an index ({refused_order.message}): "
            "name columns that can be sorted"
        )


# What only a change needs --------------------------------------------------------------------------


async def check_rights(connection: Connection, table: TaskTable, *, grant_to: str | None) -> None:
    """Refuse a role that could not finish an installation, before it begins."""
    rows = await connection.fetch(
        """
        SELECT current_user::text AS role, current_database()::text AS database, r.rolname AS owner, tn.nspname AS task_schema,
               pg_has_role(c.relowner, 'USAGE') AS owns,
               has_schema_privilege(tn.oid, 'CREATE') AS may_index,
               s.oid IS NOT NULL AS schema_exists,
               CASE WHEN s.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
                    ELSE has_schema_privilege(s.oid, 'USAGE') AND has_schema_privilege(s.oid, 'CREATE') END AS may_create,
               (SELECT min(o.rolname) FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_roles AS o ON o.oid = p.proowner
                 WHERE p.pronamespace = s.oid AND NOT pg_has_role(p.proowner, 'USAGE')) AS other_owner,
               $4::text IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_roles AS g WHERE g.rolname = $4) AS role_exists
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS tn ON tn.oid = c.relnamespace
          JOIN pg_catalog.pg_roles AS r ON r.oid = c.relowner
          LEFT JOIN pg_catalog.pg_namespace AS s ON s.nspname = $3
         WHERE tn.nspname = $1 AND c.relname = $2
        """,
        *table.qualified,
        table.schema,
        grant_to,
    )
    has = rows[0]
    role, schema = has["role"], quote_name(table.schema)
    if not has["owns"]:
        raise SchemaError(
            f"the role {role!r} does not own {table.table}: connect as its owner, {has['owner']!r}"
        )
    if not has["may_index"]:
        task_schema = has["task_schema"]
        raise SchemaError(
            f"the role {role!r} may not create an index in the schema {task_schema!r}: "
            f"GRANT CREATE ON SCHEMA {quote_name(task_schema)} TO {quote_name(role)}"
        )
    if not has["may_create"]:
        right = "USAGE, CREATE" if has["schema_exists"] else "CREATE"
        where = f"SCHEMA {schema}" if has["schema_exists"] else f"DATABASE {quote_name(has['database'])}"
        raise SchemaError(
            f"the role {role!r} may not create {'functions in' if has['schema_exists'] else 'the'} schema {table.schema!r}: "
            f"GRANT {right} ON {where} TO {quote_name(role)}"
        )
    if has["other_owner"]:
        raise SchemaError(
            f"the functions in schema {table.schema!r} belong to {has['other_owner']!r}: connect as that role, or use another schema="
        )
    if not has["role_exists"]:
        raise SchemaError(f"there is no role {grant_to!r} to grant anything to: create it, or name another")


async def schema_versions(connection: Connection, table: TaskTable) -> tuple[int, int] | None:
    """(what the schema in the database offers, the oldest library that it serves); None if it is not there."""
    function = f"{quote_name(table.schema)}.schema_version"
    if not await connection.fetchval("SELECT to_regproc($1) IS NOT NULL", function):
        return None
    rows = await connection.fetch(f"SELECT version, serves FROM {function}()")
    return rows[0]["version"], rows[0]["serves"]


def too_new(table: TaskTable, versions: tuple[int, int] | None) -> str | None:
    """Why this library is too old for the schema, if it is."""
    if versions is None or versions[1] <= SCHEMA_VERSION:
        return None
    return (
        f"the schema {table.schema!r} has version {versions[0]} and serves libraries of version {versions[1]} and later, "
        f"and this library is of version {SCHEMA_VERSION}: upgrade session-lock here (pip install --upgrade session-lock)"
    )


async def check_schema_is_ours(connection: Connection, table: TaskTable) -> None:
    """Refuse a schema whose table `session` is somebody else's, and one that is too new."""
    columns = await connection.fetchval(
        """
        SELECT array_agg(a.attname::text) FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = 'session' AND a.attnum > 0 AND NOT a.attisdropped
        """,
        table.schema,
    )
    if columns is not None and not {"id", "nonce", "expires_at", "swept_at"} <= set(columns):
        raise SchemaError(
            f"the schema {table.schema!r} has a table session that is not session_lock's: use another schema="
        )
    if trouble := too_new(table, await schema_versions(connection, table)):
        raise SchemaError(trouble)
