"""`check`: what is in the database, compared with what this mapping and library would put there now."""

from __future__ import annotations

import re

from session_lock.errors import SchemaError
from session_lock.migrations.adoption import copy_of
from session_lock.migrations.advice import notes
from session_lock.migrations.difference import INSTALL, Difference, note
from session_lock.migrations.functions import (
    is_newer,
    session_functions,
    shipped_functions,
    signatures,
    task_functions,
)
from session_lock.migrations.limiting import wrong_indexes
from session_lock.migrations.partitions import incomplete
from session_lock.migrations.sandbox import Connection, RightsError, rolled_back, sentences
from session_lock.migrations.shipping import due_index, is_there, shipped_rights, shipped_table
from session_lock.migrations.validation import (
    CLAIM_TYPES,
    Examined,
    check_schema_is_ours,
    comment_start,
    examine,
    read_claim_columns,
    schema_versions,
)
from session_lock.names import quote_name
from session_lock.objects import function_set, index_name
from session_lock.schema import SCHEMA_VERSION, render, shipped, source
from session_lock.table import TaskTable


async def check(connection: Connection, table: TaskTable, *, role: str | None = None) -> list[Difference]:
    """Everything that is missing or different, and then the notes; [] if nothing is.

    With `role` also whether that role may do what a service needs. It changes nothing, and needs the rights of the
    table's owner. A mapping that `validate` would refuse is one difference, and the only one.

    ```python
    wrong = [found for found in await check(connection, mails) if not found.note]
    assert not wrong
    ```
    """
    async with sentences(connection, f"{table.table} could not be checked"):
        try:
            examined = await examine(connection, table)
            await check_schema_is_ours(connection, table)
        except RightsError:
            raise
        except SchemaError as error:
            return [Difference(str(error))]
        if not await is_there(connection, table):
            return [Difference(f"the table {table.table} is missing", INSTALL)]
        return [
            *await schema_version(connection, table),
            *await foreign_origin(connection, table),
            *await to_install(connection, table, examined),
            *await rights(connection, table, examined, role),
            *await notes(connection, table, examined, role),
        ]


async def to_install(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    """What of a mapping, whose table is there, is missing or different."""
    return [
        *([] if await is_newer(connection, table) else await session_tables(connection, table)),
        *await session_functions(connection, table),
        *[Difference(text, INSTALL) for text in await shipped_table(connection, table)],
        *await shipped_functions(connection, table, examined),
        *await claim_columns(connection, table),
        *await pending_index(connection, table, examined),
        *await wrong_indexes(connection, table, examined.limit_indexes),
        *[Difference(text, INSTALL) for text in await due_index(connection, table, examined.shape)],
        *await task_functions(connection, table, examined),
    ]


# What all mappings share ---------------------------------------------------------------------------


async def schema_version(connection: Connection, table: TaskTable) -> list[Difference]:
    versions = await schema_versions(connection, table)
    if versions is None or versions[0] == SCHEMA_VERSION:
        return []  # a missing function is told with the others
    if versions[0] < SCHEMA_VERSION:
        return [
            Difference(
                f"the schema {table.schema!r} has version {versions[0]}, older than this library's {SCHEMA_VERSION}",
                INSTALL,
            )
        ]
    text = f"the schema {table.schema!r} has version {versions[0]}, newer than this library's {SCHEMA_VERSION}, which it serves"
    return [note(text, "upgrade session-lock here when convenient")]


async def session_tables(connection: Connection, table: TaskTable) -> list[Difference]:
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, c.relkind::text AS kind, a.attname AS column
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r'
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'i')
        """,
        table.schema,
    )
    tables = {row["name"] for row in rows if row["kind"] == "r"}
    there = {(row["name"], row["column"]) for row in rows}
    found: list[Difference] = []
    for name, columns in _tables_in(source("sessions.up.sql")).items():
        if name not in tables:
            found.append(Difference(f"the table {table.schema}.{name} is missing", INSTALL))
            continue
        missing = [column for column in columns if (name, column) not in there]
        found += [
            Difference(f"the column {table.schema}.{name}.{column} is missing", INSTALL) for column in missing
        ]
    for name in re.findall(r"(?m)^ *CREATE INDEX IF NOT EXISTS (\w+)", source("sessions.up.sql")):
        if name not in {row["name"] for row in rows if row["kind"] == "i"}:
            found.append(Difference(f"the index {table.schema}.{name} is missing", INSTALL))
    return found


def _tables_in(text: str) -> dict[str, list[str]]:
    """The tables that a file of ours creates, with their columns; `ADD COLUMN` of later versions included."""
    tables = {
        name: re.findall(r"(?m)^  (\w+) +\w", body)
        for name, body in re.findall(r"(?ms)^CREATE TABLE IF NOT EXISTS session_lock\.(\w+) \((.*?)^\)", text)
    }
    for name, body in re.findall(r"(?ms)^ALTER TABLE session_lock\.(\w+)(.*?);", text):
        tables.setdefault(name, []).extend(re.findall(r"ADD COLUMN IF NOT EXISTS (\w+)", body))
    return tables


async def foreign_origin(connection: Connection, table: TaskTable) -> list[Difference]:
    if (original := await copy_of(connection, table)) is None:
        return []
    return [
        Difference(
            f"this is a copy of {original}, and no task is run in it",
            "run session-lock adopt if they shall be",
        )
    ]


# What belongs to the task table --------------------------------------------------------------------


async def claim_columns(connection: Connection, table: TaskTable) -> list[Difference]:
    there = await read_claim_columns(connection, table)
    found: list[Difference] = []
    for role, (type_, not_null, default) in CLAIM_TYPES.items():
        name = getattr(table.claim_columns, role)
        where = f"the column {table.table}.{name}"
        if (column := there.get(role)) is None:
            found.append(Difference(f"{where} is missing", INSTALL))
        elif column.type != type_:
            found.append(Difference(f"{where} is of type {column.type}, not {type_}", "change it back"))
        elif column.not_null != not_null:
            verb = "SET" if not_null else "DROP"
            found.append(
                Difference(
                    f"{where} {'may' if not_null else 'may not'} be null",
                    f"ALTER COLUMN {quote_name(name)} {verb} NOT NULL",
                )
            )
        elif column.default != default:
            remedy = f"SET DEFAULT {default}" if default else "DROP DEFAULT"
            found.append(
                Difference(
                    f"{where} has the default {column.default}", f"ALTER COLUMN {quote_name(name)} {remedy}"
                )
            )
        elif not column.comment.startswith(comment_start(table)):
            found.append(Difference(f"{where} has lost the comment that says whose it is", INSTALL))
    return found


async def pending_index(connection: Connection, table: TaskTable, examined: Examined) -> list[Difference]:
    name = index_name(function_set(table, examined.shape))
    where = f"the index {table.qualified[0]}.{name}"
    async with rolled_back(connection):  # for the search_path that expressions are printed under
        rows = await connection.fetch(
            """
            SELECT i.indisvalid AND i.indisready AS valid, pg_get_expr(i.indpred, i.indrelid) AS pending, m.amname AS method,
                   ARRAY(SELECT a.attname::text || CASE WHEN (i.indoption[k - 1] & 1) = 1 THEN ' DESC' ELSE '' END
                           FROM generate_series(1, i.indnkeyatts) AS k
                           LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k - 1]
                          ORDER BY k) AS columns
              FROM pg_catalog.pg_index AS i
              JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
              JOIN pg_catalog.pg_class AS r ON r.oid = i.indrelid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace AND n.oid = c.relnamespace
             WHERE n.nspname = $1 AND r.relname = $2 AND c.relname = $3
            """,
            *table.qualified,
            name,
        )
    if not rows:
        return [Difference(f"{where} is missing", INSTALL)]
    if wrong := await incomplete(connection, table, name):
        return [Difference(f"{where} {wrong}", INSTALL)]
    if not rows[0]["valid"]:
        return [Difference(f"{where} is invalid (its build failed, or is not done yet)", INSTALL)]
    wanted = [f"{column}{' DESC' if down else ''}" for column, down in table.order]
    if (rows[0]["columns"], rows[0]["pending"], rows[0]["method"]) != (wanted, examined.pending, "btree"):
        drop = "DROP INDEX CONCURRENTLY" if examined.shape.partitions is None else "DROP INDEX"
        return [Difference(f"{where} has another definition", f"{drop}, then {INSTALL}")]
    return []


# Who may do what -----------------------------------------------------------------------------------


async def rights(
    connection: Connection, table: TaskTable, examined: Examined, role: str | None
) -> list[Difference]:
    if role is None:
        return []
    if not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", role
    ):
        return [Difference(f"there is no role {role!r}", "create it, or name another")]
    remedy = f"run session-lock install --grant-to {role}"
    may_use = "SELECT has_schema_privilege($1, n.oid, 'USAGE') FROM pg_catalog.pg_namespace AS n WHERE n.nspname = $2"
    if await connection.fetchval(may_use, role, table.schema) is False:
        return [Difference(f"the role {role!r} may not use the schema {table.schema!r}", remedy)]
    return [
        Difference(f"the role {role!r} may not execute {signature}", remedy)
        for name in ("grants.sql", *shipped(table, "grants"))
        for signature in signatures(render(name, table, examined.shape, role=role))
        if await connection.fetchval(
            "SELECT has_function_privilege($1, to_regprocedure($2), 'EXECUTE')", role, signature
        )
        is False
    ] + [Difference(text, remedy) for text in await shipped_rights(connection, table, examined.shape, role)]
