"""Where the status page gets its connections from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from session_lock.connections import Connections
from session_lock.drivers import describe_kind, find
from session_lock.errors import SettingsError
from session_lock.migrations.sandbox import given_up_in_doubt
from session_lock.sqlstate import translate
from session_lock.table import TaskTable, install_command

Given: TypeAlias = str | Callable[[], Awaitable[Any]] | Any
"""A DSN, an async function that returns a new connection of asyncpg, or a pool of asyncpg."""

MOST = 3
"""Connections of its own, or of a pool. A look takes a few milliseconds: they are shared by all mappings and all who look."""

GOODBYE = 2.0
"""Seconds that closing one may take."""


class Source:
    """Connections, opened when they are needed and closed when nobody looks any more; those of a pool are the pool's own."""

    def __init__(self, given: Given) -> None:
        self._pool: Any = given if find(given, {("asyncpg", "Pool"): True}) else None
        if self._pool is None and (
            isinstance(given, type) or not (isinstance(given, str) or callable(given))
        ):
            raise SettingsError(
                "status_app takes a DSN, a pool of asyncpg, or an async function that returns a connection of asyncpg, "
                f"not {describe_kind(given)}"
            )
        options: dict[str, Any] = {}
        if isinstance(given, str):
            # Behind a pooler too; by its name the page is known in pg_stat_activity.
            options = {
                "statement_cache_size": 0,
                "server_settings": {"application_name": "session_lock status"},
            }
        self._free = asyncio.Semaphore(MOST)
        connect: Any = given
        self._connections = Connections(connect, MOST, _greet, **options)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One, for a short time. A driver's errors are raised as they are."""
        taken = self._connections.one() if self._pool is None else self._of_pool()
        async with taken as connection:
            with given_up_in_doubt(connection):  # else a pool waits for it to be of use again
                yield connection

    @asynccontextmanager
    async def _of_pool(self) -> AsyncIterator[Any]:
        async with self._free, self._pool.acquire() as connection:  # the rest of it is the service's
            yield connection

    async def rest(self) -> None:
        """Nobody looks: keep none."""
        if self._pool is None:
            await self._connections.close(GOODBYE)


async def _greet(_connection: Any) -> None:
    """Nothing has to be set."""


def sentence(error: Exception, doing: str, table: TaskTable) -> str:
    """What a driver's error means to who looks at the page."""
    if isinstance(error, OSError):
        told = error.strerror or type(error).__name__
        return f"the database is out of reach ({told}): start it, or correct what the page connects by"
    return str(translate(error, doing, install_command(table)))
