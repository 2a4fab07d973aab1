"""The same on the connections of tools that migrate: those of SQLAlchemy and Django, and psycopg beneath them.

What is done here is written once, over a connection of asyncpg. On one of psycopg it is played by a face of that kind; on a
synchronous one nothing in it ever waits for an event loop, so it ends in one go.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from inspect import isawaitable
from typing import Any, TypeVar

from session_lock.drivers import Statement, find
from session_lock.errors import SettingsError
from session_lock.migrations.sandbox import Connection

R = TypeVar("R")
Work = Callable[[Connection], Coroutine[Any, Any, R]]


def migrates(dialect: Any) -> bool:
    """Whether anything of ours is done on a connection of this dialect of SQLAlchemy's."""
    return dialect.name == "postgresql" and dialect.driver in {"asyncpg", "psycopg"}


def on_sqlalchemy(connection: Any, work: Work[R]) -> R:
    """Do it on a `Connection` of SQLAlchemy, in the transaction that it is in; also within `run_sync`."""
    dialect = connection.dialect
    driver = f"{dialect.name}+{dialect.driver}"
    connection.exec_driver_sql("SELECT 1")  # now it has begun, if it is to begin one
    raw = connection.connection.dbapi_connection
    match driver:
        case "postgresql+asyncpg":
            return raw.run_async(work)  # type: ignore[no-any-return]
        case "postgresql+psycopg" if dialect.is_async:
            return raw.run_async(lambda own: work(OnPsycopg(own)))  # type: ignore[no-any-return]
        case "postgresql+psycopg":
            return in_one_go(work(OnPsycopg(raw)))
    raise SettingsError(
        f"session_lock migrates by asyncpg or psycopg 3, not by {driver}: create the engine with postgresql+psycopg:// "
        "(pip install 'session-lock[psycopg]'), or run what session-lock sql prints"
    )


def on_django(connection: Any, work: Work[R]) -> R:
    """Do it on a connection of Django, in the transaction that it is in."""
    if connection.vendor != "postgresql":
        raise SettingsError(
            f"{connection.alias!r} is a database of {connection.vendor}, and tasks are rows of PostgreSQL: let your database router keep "
            "this migration from it, by hints= of the operation if it asks for the model"
        )
    connection.ensure_connection()
    raw = connection.connection
    if not find(raw, {("psycopg", "Connection"): True}):
        raise SettingsError(
            f"session_lock migrates Django's databases by psycopg 3, and {connection.alias!r} is one of "
            f"{type(raw).__module__.partition('.')[0]}: pip install 'session-lock[psycopg]', or run what session-lock sql prints"
        )
    return in_one_go(work(OnPsycopg(raw)))


def in_one_go(work: Coroutine[Any, Any, R]) -> R:
    """The result of what never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    work.close()
    raise RuntimeError("a migration waits for an event loop, and there is none")


class OnPsycopg:
    """A `Connection` or `AsyncConnection` of psycopg with the face of asyncpg's, as far as it is used here."""

    def __init__(self, raw: Any) -> None:
        psycopg = sys.modules["psycopg"]
        self._raw = raw
        # By its class: what the connection itself makes may be a cursor that puts the arguments into the text.
        kind = psycopg.AsyncCursor if isinstance(raw, psycopg.AsyncConnection) else psycopg.Cursor
        self._cursor = partial(kind, raw, row_factory=psycopg.rows.dict_row)

    async def fetch(self, query: str, *args: Any) -> Sequence[Mapping[str, Any]]:
        cursor = await self._executed(query, args)
        return await _settled(cursor.fetchall()) if cursor.description else []

    async def fetchval(self, query: str, *args: Any) -> Any:
        rows = await self.fetch(query, *args)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, query: str, *args: Any) -> None:
        if args:
            await self._executed(query, args)
        else:  # several statements, maybe
            await _settled(self._cursor().execute(query))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        own = self._raw.transaction()
        if hasattr(own, "__aenter__"):
            async with own:
                yield
        else:
            with own:
                yield

    def is_in_transaction(self) -> bool:
        return self._raw.info.transaction_status.name != "IDLE"  # type: ignore[no-any-return]

    def terminate(self) -> None:
        self._raw.pgconn.finish()

    async def _executed(self, query: str, args: tuple[Any, ...]) -> Any:
        """By the extended protocol, which takes one statement: psycopg takes it for results in binary."""
        cursor = self._cursor()
        text, values = Statement("", query, args).as_format()
        await _settled(cursor.execute(text, values, binary=True))
        return cursor


async def _settled(result: Any) -> Any:
    return await result if isawaitable(result) else result
