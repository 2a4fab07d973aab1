"""Many rows at once: COPY on a connection of the user's, of whatever driver or layer. As in `drivers`, none is imported."""

from __future__ import annotations

import io
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from session_lock.drivers import find
from session_lock.names import quote_name


@dataclass(frozen=True, slots=True)
class Copy:
    """What is copied in."""

    table: tuple[str, str]
    columns: tuple[str, ...]
    data: bytes
    """In COPY's text format, of ASCII alone: the connection's encoding and codecs change nothing of it."""

    @property
    def query(self) -> str:
        schema, name, *columns = map(quote_name, (*self.table, *self.columns))
        return f"COPY {schema}.{name} ({', '.join(columns)}) FROM STDIN"


async def copy_in(connection: Any, copy: Copy) -> None:
    """On a connection that has just answered a `Statement`, so that what it is, and its transaction, is settled."""
    handler = find(connection, ASYNCHRONOUS)
    assert handler is not None
    await handler(connection, copy)


def copy_in_sync(connection: Any, copy: Copy) -> None:
    handler = find(connection, SYNCHRONOUS)
    assert handler is not None
    handler(connection, copy)


# Asynchronous ones --------------------------------------------------------------------------------------


async def _asyncpg(connection: Any, copy: Copy) -> None:
    schema, name = copy.table
    await connection.copy_to_table(
        name, schema_name=schema, columns=copy.columns, source=io.BytesIO(copy.data), format="text"
    )


async def _psycopg_async(connection: Any, copy: Copy) -> None:
    async with sys.modules["psycopg"].AsyncCursor(connection) as cursor, cursor.copy(copy.query) as copying:
        await copying.write(copy.data)


async def _sqlalchemy_async(connection: Any, copy: Copy) -> None:
    await connection.run_sync(_sqlalchemy, copy)


async def _sqlalchemy_async_scoped(registry: Any, copy: Copy) -> None:
    await _sqlalchemy_async(registry(), copy)


# Synchronous ones ---------------------------------------------------------------------------------------


def _psycopg(connection: Any, copy: Copy) -> None:
    with sys.modules["psycopg"].Cursor(connection) as cursor, cursor.copy(copy.query) as copying:
        copying.write(copy.data)


def _psycopg2(connection: Any, copy: Copy) -> None:
    with sys.modules["psycopg2"].extensions.cursor(connection) as cursor:
        cursor.copy_expert(copy.query, io.BytesIO(copy.data))


def _sqlalchemy(session_or_connection: Any, copy: Copy) -> None:
    session = find(session_or_connection, {("sqlalchemy", "Session"): True})
    connection = session_or_connection.connection() if session else session_or_connection
    raw = connection.connection
    if handler := find(raw.driver_connection, ASYNCHRONOUS):
        raw.dbapi_connection.run_async(lambda driver: handler(driver, copy))
    else:
        copy_in_sync(raw.driver_connection, copy)


def _sqlalchemy_scoped(registry: Any, copy: Copy) -> None:
    _sqlalchemy(registry(), copy)


def _django(connection: Any, copy: Copy) -> None:
    try:
        with connection.wrap_database_errors:
            copy_in_sync(connection.connection, copy)
    except Exception:
        if connection.in_atomic_block:
            connection.set_rollback(True)
        raise


ASYNCHRONOUS: Mapping[tuple[str, str], Callable[[Any, Copy], Awaitable[None]]] = {
    ("asyncpg", "Connection"): _asyncpg,
    ("asyncpg", "PoolConnectionProxy"): _asyncpg,
    ("psycopg", "AsyncConnection"): _psycopg_async,
    ("sqlalchemy", "AsyncSession"): _sqlalchemy_async,
    ("sqlalchemy", "AsyncConnection"): _sqlalchemy_async,
    ("sqlalchemy", "async_scoped_session"): _sqlalchemy_async_scoped,
}

SYNCHRONOUS: Mapping[tuple[str, str], Callable[[Any, Copy], None]] = {
    ("psycopg", "Connection"): _psycopg,
    ("psycopg2", "connection"): _psycopg2,
    ("sqlalchemy", "Session"): _sqlalchemy,
    ("sqlalchemy", "Connection"): _sqlalchemy,
    ("sqlalchemy", "scoped_session"): _sqlalchemy_scoped,
    ("django", "BaseDatabaseWrapper"): _django,
    ("django", "ConnectionProxy"): _django,
}
