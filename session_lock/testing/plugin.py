"""The fixtures of the pytest plugin, which is there wherever session_lock is installed; `-p no:session_lock` leaves it out.

None of them is a coroutine: they serve under pytest-asyncio, under anyio's plugin, in a plain `asyncio.run`, and each process of
pytest-xdist has its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_lock.embedded import temp_postgres
from session_lock.migrations import install
from session_lock.runner import Runner
from session_lock.settings import Settings
from session_lock.table import TaskTable
from session_lock.tasker import Tasker
from session_lock.testing.fault import Fault
from session_lock.testing.faults import Faults
from session_lock.testing.idle import quick
from session_lock.testing.instance import AT_FINISH, Instance

# A database, and a Runner ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of a superuser on a PostgreSQL server for tests: that of the environment's SESSION_LOCK_TEST_DSN, or one that
    is started for this run (`pip install 'session-lock[demo]'`).
    """
    if dsn := os.environ.get("SESSION_LOCK_TEST_DSN"):
        yield dsn
        return
    with temp_postgres() as server:
        yield server.dsn


@pytest.fixture
def task_database(postgres_server: str) -> Callable[..., AbstractAsyncContextManager[str]]:
    """A database of a block's own, with tables of yours and mappings installed.

    async with task_database("CREATE TABLE ..", mails) as dsn: ..
    """

    @asynccontextmanager
    async def fresh(sql: str, *tables: TaskTable) -> AsyncIterator[str]:
        name = f"session_lock_test_{secrets.token_hex(6)}"
        dsn = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
        await _execute(postgres_server, f"CREATE DATABASE {name}")
        try:
            connection: Any = await asyncpg.connect(dsn)
            try:
                await connection.execute(sql)
                for table in tables:
                    await install(connection, table)
            finally:
                await connection.close()
            yield dsn
        finally:
            await _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")

    return fresh


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def runner() -> Callable[..., Runner[Any]]:
    """Makes a Runner for a test, `runner(database, tasker, settings)`: it begins at once, and looks 50 times a second."""

    def make(
        database: Any, tasker: Tasker[Any], settings: Settings | None = None, **options: Any
    ) -> Runner[Any]:
        return Runner(database, tasker, quick(settings), **options)

    return make


# Faults ------------------------------------------------------------------------------------------------------


@pytest.fixture
def session_lock_faults() -> Iterator[Callable[[Any], Faults[Any]]]:
    """`session_lock_faults(database)` makes the `Faults` of this test, which fails if one asked for has not happened."""
    made: list[Faults[Any]] = []

    def make(database: Any) -> Faults[Any]:
        made.append(Faults(database))
        return made[-1]

    yield make
    for faults in made:
        faults.assert_all_happened()


@pytest.fixture(params=list(AT_FINISH.values()), ids=list(AT_FINISH))
def session_lock_fault(request: pytest.FixtureRequest) -> Callable[[Instance[Any]], Fault]:
    """The test runs once for each fault; `session_lock_fault(instance)` lets it happen when that one is about to finish a task."""
    fault: Callable[[Instance[Any]], Fault] = request.param
    return fault
