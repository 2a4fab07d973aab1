"""One statement on a connection of the user's, of whatever driver or layer. None of them is imported: a connection that is
there tells by the names of its classes what it is.

It always goes to the driver itself. What lies above it (SQLAlchemy, Django) logs the arguments of what it is given, and
puts them into its errors; a session's nonce is not for logs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from session_lock.errors import SettingsError

H = TypeVar("H")

Rows: TypeAlias = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement:
    """What is asked of a connection."""

    call: str
    """The function that the user has called, as errors name it. Its synchronous sibling ends in `_sync`."""

    query: str
    """With `$1` to `$n`, each cast to its type: what a driver makes of a value is its own matter then."""

    arguments: tuple[Any, ...]
    """Numbers, text, booleans, None, and lists of them: what every driver adapts."""

    in_transaction: bool = True
    """Whether it is refused on a connection that commits each statement by itself."""

    def as_format(self) -> tuple[str, list[Any]]:
        """For drivers whose placeholder is `%s`."""
        order: list[int] = []

        def place(match: re.Match[str]) -> str:
            order.append(int(match[1]) - 1)
            return "%s"

        query = re.sub(r"\$(\d+)", place, self.query.replace("%", "%%"))
        return query, [self.arguments[i] for i in order]

    def need_transaction(self, *, commits_itself: bool, remedy: str) -> None:
        if self.in_transaction and commits_itself:
            raise SettingsError(f"{self.call}(connection) needs an open transaction: {remedy}")


async def fetch(connection: Any, statement: Statement) -> Rows:
    """Run it on an asynchronous connection. `SettingsError`, before anything is sent, for a connection that will not do."""
    return await _find(connection, statement.call, ASYNCHRONOUS, SYNCHRONOUS)(connection, statement)


def fetch_sync(connection: Any, statement: Statement) -> Rows:
    """Run it on a synchronous connection, wholly in this thread."""
    return _find(connection, statement.call, SYNCHRONOUS, ASYNCHRONOUS)(connection, statement)


# What it is ---------------------------------------------------------------------------------------------


def lineage(thing: object) -> Iterator[tuple[str, str]]:
    """(package, name) of a thing's class and of those that it is derived from. In which module of its package a class
    lives differs from version to version.
    """
    for kind in type(thing).__mro__:
        yield kind.__module__.partition(".")[0], kind.__name__


def find(thing: object, table: Mapping[tuple[str, str], H]) -> H | None:
    return next((table[name] for name in lineage(thing) if name in table), None)


def describe_kind(thing: object) -> str:
    """Such as `Connection of psycopg`."""
    kind = type(thing)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package in {"builtins", "__main__"} else f"{kind.__name__} of {package}"


def _find(
    connection: object, call: str, wanted: Mapping[tuple[str, str], H], other: Mapping[tuple[str, str], Any]
) -> H:
    if handler := find(connection, wanted):
        return handler
    kind = describe_kind(connection)
    if find(connection, other):
        if wanted is ASYNCHRONOUS:
            raise SettingsError(
                f"{call} takes an asynchronous connection, not {kind}: call {call}_sync with it, in its own thread"
            )
        raise SettingsError(
            f"{call} takes a synchronous connection, not {kind}: await {call.removesuffix('_sync')} with it"
        )
    takes = (
        "a connection of asyncpg or psycopg, or an AsyncSession or AsyncConnection of SQLAlchemy"
        if wanted is ASYNCHRONOUS
        else "a connection of psycopg or Django, or a Session or Connection of SQLAlchemy"
    )
    raise SettingsError(f"{call} takes {takes}, not {kind}")


# Asynchronous ones --------------------------------------------------------------------------------------


async def _asyncpg(connection: Any, statement: Statement) -> Rows:
    statement.need_transaction(
        commits_itself=not connection.is_in_transaction(), remedy="async with connection.transaction(): ..."
    )
    return [tuple(row) for row in await connection.fetch(statement.query, *statement.arguments)]


async def _psycopg_async(connection: Any, statement: Statement) -> Rows:
    _check_psycopg(connection, statement, "async with connection.transaction(): ...")
    psycopg = sys.modules["psycopg"]
    async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        await cursor.execute(*statement.as_format())
        return list(await cursor.fetchall())


async def _sqlalchemy_async(connection: Any, statement: Statement) -> Rows:
    return list(await connection.run_sync(_sqlalchemy, statement))


async def _sqlalchemy_async_scoped(registry: Any, statement: Statement) -> Rows:
    return await _sqlalchemy_async(registry(), statement)


# Synchronous ones ---------------------------------------------------------------------------------------


def _psycopg(connection: Any, statement: Statement) -> Rows:
    _check_psycopg(connection, statement, "with connection.transaction(): ...")
    psycopg = sys.modules["psycopg"]
    with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(*statement.as_format())
        return list(cursor.fetchall())


def _check_psycopg(connection: Any, statement: Statement, remedy: str) -> None:
    """One that is not in autocommit begins a transaction by itself."""
    statement.need_transaction(
        commits_itself=connection.autocommit and connection.info.transaction_status.name == "IDLE",
        remedy=remedy,
    )


def _psycopg2(connection: Any, statement: Statement) -> Rows:
    statement.need_transaction(commits_itself=connection.autocommit, remedy="connection.autocommit = False")
    with sys.modules["psycopg2"].extensions.cursor(connection) as cursor:
        cursor.execute(*statement.as_format())
        return list(cursor.fetchall())


def _sqlalchemy(session_or_connection: Any, statement: Statement) -> Rows:
    """Also within `run_sync`, where the driver is an asynchronous one behind an adapter with the face of DB-API."""
    session = find(session_or_connection, {("sqlalchemy", "Session"): True})
    connection = session_or_connection.connection() if session else session_or_connection
    dialect = connection.dialect
    if (dialect.name, dialect.driver) not in SQLALCHEMY_DRIVERS:
        raise SettingsError(
            f"{statement.call} on SQLAlchemy needs PostgreSQL by asyncpg or psycopg, not {dialect.name}+{dialect.driver}"
        )
    raw = connection.connection
    statement.need_transaction(
        commits_itself=raw.dbapi_connection.autocommit,
        remedy="the isolation level of this one is AUTOCOMMIT",
    )
    if not connection.in_transaction():
        connection.begin()  # as any use of it does
    numbered = dialect.driver == "asyncpg"
    query, arguments = (statement.query, statement.arguments) if numbered else statement.as_format()
    with closing(raw.cursor()) as cursor:
        try:
            cursor.execute(query, arguments)
            return list(map(tuple, cursor.fetchall()))
        except Exception as error:
            # What SQLAlchemy itself would have done: a connection that is broken does not go back to its pool.
            if isinstance(error, dialect.loaded_dbapi.Error) and dialect.is_disconnect(
                error, raw.dbapi_connection, cursor
            ):
                connection.invalidate(error)
            raise


SQLALCHEMY_DRIVERS = {
    ("postgresql", "asyncpg"),
    ("postgresql", "psycopg"),
    ("postgresql", "psycopg_async"),
    ("postgresql", "psycopg2"),
}


def _sqlalchemy_scoped(registry: Any, statement: Statement) -> Rows:
    return _sqlalchemy(registry(), statement)


def _django(connection: Any, statement: Statement) -> Rows:
    if connection.vendor != "postgresql":
        raise SettingsError(
            f"{statement.call} on Django needs a database of PostgreSQL, not {connection.vendor}"
        )
    statement.need_transaction(
        commits_itself=not connection.in_atomic_block and connection.get_autocommit(),
        remedy="with transaction.atomic(): ...",
    )
    try:
        with connection.cursor() as cursor, connection.wrap_database_errors:
            cursor.cursor.execute(*statement.as_format())  # beneath the one that logs
            return list(cursor.cursor.fetchall())
    except Exception:
        if connection.in_atomic_block:
            connection.set_rollback(True)  # the server will commit nothing any more, and so says Django then
        raise


ASYNCHRONOUS: Mapping[tuple[str, str], Callable[[Any, Statement], Awaitable[Rows]]] = {
    ("asyncpg", "Connection"): _asyncpg,
    ("asyncpg", "PoolConnectionProxy"): _asyncpg,
    ("psycopg", "AsyncConnection"): _psycopg_async,
    ("sqlalchemy", "AsyncSession"): _sqlalchemy_async,
    ("sqlalchemy", "AsyncConnection"): _sqlalchemy_async,
    ("sqlalchemy", "async_scoped_session"): _sqlalchemy_async_scoped,
}

SYNCHRONOUS: Mapping[tuple[str, str], Callable[[Any, Statement], Rows]] = {
    ("psycopg", "Connection"): _psycopg,
    ("psycopg2", "connection"): _psycopg2,
    ("sqlalchemy", "Session"): _sqlalchemy,
    ("sqlalchemy", "Connection"): _sqlalchemy,
    ("sqlalchemy", "scoped_session"): _sqlalchemy_scoped,
    ("django", "BaseDatabaseWrapper"): _django,
    ("django", "ConnectionProxy"): _django,
}
