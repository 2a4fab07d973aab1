"""Tables that the library ships: made by files of its own, whose names and columns the user's mapping may choose."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from session_lock.migrations.sandbox import Connection, rolled_back
from session_lock.names import quote_name
from session_lock.objects import due_index_name, function_set, has_due_index
from session_lock.schema import render, shipped
from session_lock.table import Shape, TaskTable


async def is_there(connection: Connection, table: TaskTable) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table.quoted))


@asynccontextmanager
async def at_hand(connection: Connection, table: TaskTable) -> AsyncIterator[None]:
    """A mapping is examined on its table. One that is still to be made exists for as long as the block lasts."""
    if not table.made_by or await is_there(connection, table):
        yield
        return
    async with rolled_back(connection):
        names = shipped(table, "up")
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", quote_name(table.schema)):
            names = ("sessions.up.sql", *names)
        for name in names:
            await connection.execute(render(name, table, None))
        yield


async def shipped_table(connection: Connection, table: TaskTable) -> list[str]:
    """What is missing of what the files make, in words."""
    found: list[str] = []
    for file in shipped(table, "up"):
        for name, body in re.findall(_TABLE, render(file, table, None)):
            there = await connection.fetch(
                """
                SELECT a.attname AS column FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
                """,
                name,
            )
            columns = {row["column"] for row in there}
            if not columns:
                found.append(f"the table {name} is missing")
                continue
            wanted = [column for column in re.findall(_COLUMN, body) if column not in columns]
            found += [f"the column {name}.{column} is missing" for column in wanted]
    return found


async def shipped_rights(connection: Connection, table: TaskTable, shape: Shape, role: str) -> list[str]:
    """What a role may not do with the columns of a table that the files give it rights on."""
    found: list[str] = []
    for file in shipped(table, "grants"):
        for columns, name in re.findall(_INSERT, render(file, table, shape, role=role)):
            query = "SELECT has_column_privilege($1, to_regclass($2), (parse_ident($3))[2], 'INSERT')"
            may = [await connection.fetchval(query, role, name, f"t.{each}") for each in columns.split(", ")]
            if False in may:
                found.append(f"the role {role!r} may not insert into {name}")
    return found


async def due_index(connection: Connection, table: TaskTable, shape: Shape) -> list[str]:
    """Whether the index of due times is missing where it belongs to the mapping, in words."""
    if not has_due_index(table):
        return []
    name = due_index_name(function_set(table, shape))
    valid = await connection.fetchval(
        "SELECT i.indisvalid FROM pg_catalog.pg_index AS i WHERE i.indexrelid = to_regclass($1)",
        f"{quote_name(table.qualified[0])}.{quote_name(name)}",
    )
    where = f"the index {table.qualified[0]}.{name}"
    if valid is None:
        return [f"{where} is missing"]
    return [] if valid else [f"{where} is invalid (its build failed, or is not done yet)"]


_INSERT = r"(?m)^GRANT INSERT \((.*)\) ON (.*) TO "
_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_TABLE = rf"(?ms)^CREATE TABLE IF NOT EXISTS ({_NAME}\.{_NAME}) \((.*?)^\)"
_COLUMN = r"(?m)^  (?!PRIMARY|UNIQUE|CHECK|CONSTRAINT|FOREIGN)(\w+) +\w"
