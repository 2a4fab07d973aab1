"""The task table that most tests share, and the SQL of a mapping brought into a database as a migration would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from session_lock import schema
from session_lock.catalog import read_shape
from session_lock.indexes import index_steps
from session_lock.objects import function_set
from session_lock.schema import mapping_files, render
from session_lock.table import Shape, TaskTable

EMAIL_TABLE = """
CREATE TABLE public.email (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  address   text NOT NULL CHECK (address <> 'forbidden' OR sent_at IS NULL),
  body      text,
  sent_at   timestamptz,
  failed_at timestamptz
)
"""

EMAILS = TaskTable(
    "public.email",
    key="id",
    pending="sent_at IS NULL AND failed_at IS NULL",
    finish="sent_at = now()",
    discard="failed_at = now()",
    columns=("id", "address", "body"),
)


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        connection.terminate()


async def apply_mapping(
    connection: asyncpg.Connection, table: TaskTable, *, grant_to: str | None = None
) -> str:
    """Run the mapping's files in their order, as any migration tool would; returns the name of its set of functions.

    Hundreds of times in a run, so it is in a hurry: what is wrong within a function is seen where one is called.
    """
    shape = await read_shape(connection, table)
    await connection.execute("SET check_function_bodies = off")
    for name in ("sessions.up.sql", "sessions.alwaysup.sql", "tasks.up.sql"):
        await connection.execute(_rendered(name, table, shape))
    for name in mapping_files(table, "index"):
        for statement in index_steps(name, table, shape).values():
            await connection.execute(statement)
    for name in mapping_files(table, "alwaysup"):
        await connection.execute(_rendered(name, table, shape))
    if grant_to:
        await connection.execute(render("grants.sql", table, shape, role=grant_to))
    await connection.execute("RESET check_function_bodies")
    return function_set(table, shape)


_RENDERED: dict[tuple[str, str], str] = {}


def _rendered(name: str, table: TaskTable, shape: Shape) -> str:
    """Once for each mapping, and for each fault that a test has put into the file."""
    key = (schema.source(name) + schema.source(schema.LOCK), repr((table, shape)))
    if key not in _RENDERED:
        _RENDERED[key] = render(name, table, shape)
    return _RENDERED[key]


async def add_emails(connection: asyncpg.Connection, count: int) -> list[int]:
    """Insert `count` pending rows; returns their keys in order."""
    rows = await connection.fetch(
        "INSERT INTO public.email (address) SELECT 'a' || g || '@example.org' FROM generate_series(1, $1) AS g RETURNING id",
        count,
    )
    return [row["id"] for row in rows]


async def until_waited_for(holder: asyncpg.Connection) -> None:
    """Until somebody waits for a lock of `holder`'s transaction: elsewhere on the server others may wait, for others."""
    query = (
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    async with asyncio.timeout(20):
        while await holder.fetchval(query) == 0:
            await asyncio.sleep(0.01)
